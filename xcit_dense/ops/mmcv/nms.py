"""Non-maximum suppression as mmcv's compiled operator."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from xcit_dense.ops.mmcv.common import working_dtype


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap a better one, as ``mmcv._ext.nms`` does.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; any floating type.
        scores: (N,).
        iou_threshold: a box is dropped if its IoU with a better kept box is larger than this.
        offset: 0, or 1 for inclusive pixel corners: a side is x2 - x1 + offset.

    Returns:
        (K,) int64 indices of the kept boxes, best first; equal scores in order of input.
    """
    dtype = working_dtype(boxes)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        # Moving the far corner turns inclusive corners into exclusive ones, for unions too.
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in the boxes' precision: at 0.6, an IoU of 0.6 is not larger. torchvision
    # would compare float32 IoU with a double threshold.
    threshold = torch.tensor(iou_threshold, dtype=dtype).item()
    return torchvision.ops.nms(boxes, scores, threshold)
