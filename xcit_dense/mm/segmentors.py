"""The segmentor of MMSegmentation, with faster predictions.

MMSegmentation imports this module when it looks up its first model. Detectors do not need MMSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmengine.structures import PixelData
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

from xcit_dense.ops.labels import find_labels


@MODELS.register_module(name="FusedEncoderDecoder", force=True)
class FusedEncoderDecoder(EncoderDecoder):
    """MMSegmentation's ``EncoderDecoder``, which needs less time after the head.

    ``EncoderDecoder`` resizes logits to the size of the file also where they have this size, and reads them in large
    steps to find the best class. Arguments, parameters and results are those of ``EncoderDecoder``.
    """

    def postprocess_result(self, seg_logits: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """Adds the logits and the labels at the size of each file to the samples.

        Args:
            seg_logits: Logits (B, classes, H, W) of the padded images.
            data_samples: The samples of the images. None makes samples without changes to the logits.

        Returns:
            The samples, with ``seg_logits`` (classes, H, W) and ``pred_sem_seg`` (1, H, W).
        """
        if seg_logits.shape[1] == 1:
            return super().postprocess_result(seg_logits, data_samples)
        if data_samples is None:
            data_samples = [SegDataSample() for _ in seg_logits]
            maps = list(seg_logits)
        else:
            maps = [self._restore(logits, sample.metainfo) for logits, sample in zip(seg_logits, data_samples)]
        for sample, logits in zip(data_samples, maps):
            labels = find_labels(logits)[None]  # (1, H, W)
            sample.set_data({"seg_logits": PixelData(data=logits), "pred_sem_seg": PixelData(data=labels)})
        return data_samples

    def _restore(self, logits: Tensor, meta: dict[str, Any]) -> Tensor:
        """Undoes padding, flip and resizing: (classes, H, W) -> (classes, H', W')."""
        left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
        height, width = logits.shape[1:]
        logits = logits[:, top : height - bottom, left : width - right]
        if meta.get("flip"):
            logits = logits.flip(2 if meta["flip_direction"] == "horizontal" else 1)
        size = tuple(meta["ori_shape"])
        if logits.shape[1:] == size:
            return logits
        return F.interpolate(logits[None], size, mode="bilinear", align_corners=self.align_corners)[0]
