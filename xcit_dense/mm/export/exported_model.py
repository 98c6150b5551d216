"""An exported model in the place of a model of the MM libraries, for their evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.inference.exported import ExportedModel
from xcit_dense.structures import Instances


@MODELS.register_module(name="ExportedModel", force=True)
class EvaluatedModel(BaseModel):
    """An exported model that MMEngine's test loop calls. It cannot train.

    Args:
        path: A file that ``xcit-dense export`` has written: ``.onnx`` or ``.xml``.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.exported = ExportedModel(path)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Refuses: only :meth:`test_step` is possible."""
        raise UserError("An exported model cannot train; train the model that it was exported from.")

    def test_step(self, data: Mapping[str, Any]) -> list[Any]:
        """Predicts a batch of a test data loader.

        Args:
            data: ``inputs``, resized images (3, h, w), BGR; and ``data_samples``.

        Returns:
            The data samples, with predictions.
        """
        samples = []
        for image, sample in zip(data["inputs"], data["data_samples"]):
            pixels = np.ascontiguousarray(image.numpy().transpose(1, 2, 0)[..., ::-1])
            prepared = self.exported.prepare(pixels)[None]
            (result,) = self.exported.compute(prepared, [tuple(sample.ori_shape[:2])])
            if isinstance(result, Instances):
                assert result.scores is not None
                found = InstanceData(
                    bboxes=torch.from_numpy(result.boxes),
                    labels=torch.from_numpy(result.labels),
                    scores=torch.from_numpy(result.scores),
                )
                if result.masks is not None:
                    found.masks = torch.from_numpy(result.masks)
                sample.pred_instances = found
            else:
                sample.pred_sem_seg = PixelData(data=torch.from_numpy(result.astype(np.int64))[None])
            samples.append(sample)
        return samples
