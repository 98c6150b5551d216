"""The segmentor of MMSegmentation, which can predict labels without the logits of all pixels.

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
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS

from xcit_dense.ops.labels import find_labels


@MODELS.register_module(name="FusedEncoderDecoder", force=True)
class FusedEncoderDecoder(EncoderDecoder):
    """MMSegmentation's ``EncoderDecoder``, which can predict labels without the logits of all pixels.

    The logits of all classes at the size of the image take most of the memory of a prediction, and a good part of its
    time. Arguments, parameters and labels are those of ``EncoderDecoder``.

    Attributes:
        keeps_logits: Whether predictions contain ``seg_logits``. By default they do, as in the library. Without them,
            the logits of one class after the other are enlarged and compared.
    """

    keeps_logits: bool = True

    def predict(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """Predicts the labels of images.

        Args:
            inputs: Normalised images (B, C, H, W).
            data_samples: The samples of the images. None makes samples.

        Returns:
            The samples, with ``pred_sem_seg`` (1, H', W') at the size of the file, and ``seg_logits`` (classes, H', W')
            if they are kept.
        """
        if data_samples is None or not self._can_leave_out_logits(inputs):
            return super().predict(inputs, data_samples)
        metas = [sample.metainfo for sample in data_samples]
        logits = self.decode_head(self.extract_feat(inputs)).contiguous()  # (B, classes, h, w)
        for of_image, sample in zip(logits, data_samples):
            maps = (self._enlarge(of_class[None, None], metas, sample.metainfo) for of_class in of_image)
            sample.set_data({"pred_sem_seg": PixelData(data=find_labels(maps)[None])})  # (1, H', W')
        return data_samples

    def _can_leave_out_logits(self, inputs: Tensor) -> bool:
        """Returns whether one map of logits with several classes gives the labels, on a CPU."""
        head = self.decode_head
        if self.keeps_logits or inputs.device.type != "cpu" or self.test_cfg.get("mode", "whole") != "whole":
            return False
        if getattr(head, "out_channels", 1) == 1 or not isinstance(head, BaseDecodeHead):
            return False
        own = type(head).predict, type(head).predict_by_feat
        return own == (BaseDecodeHead.predict, BaseDecodeHead.predict_by_feat)

    def _enlarge(self, logits: Tensor, metas: list[Any], meta: Any) -> Tensor:
        """Brings the logits of one class (1, 1, h, w) to the file's size (H', W'), with the steps of the library."""
        logits = self.decode_head.predict_by_feat(logits, metas)[0]  # (1, H, W)
        left, right, top, bottom = meta.get("img_padding_size", meta.get("padding_size", [0] * 4))
        height, width = logits.shape[1:]
        logits = logits[:, top : height - bottom, left : width - right]
        if meta.get("flip"):
            logits = logits.flip(2 if meta["flip_direction"] == "horizontal" else 1)
        size = tuple(meta["ori_shape"])
        if logits.shape[1:] != size:
            logits = F.interpolate(logits[None], size, mode="bilinear", align_corners=self.align_corners)[0]
        return logits[0]
