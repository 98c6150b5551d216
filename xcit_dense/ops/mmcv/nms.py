"""Non-maximum suppression with the signature of mmcv's compiled operator."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from xcit_dense.ops.mmcv.common import working_dtype


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Drops boxes that overlap a box with a higher score, as ``mmcv._ext.nms`` does.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2 in pixels, of any floating-point dtype.
        scores: (N,) scores.
        iou_threshold: A box is dropped if its IoU with a kept box of a higher score is greater than this, in [0, 1].
        offset: 0, or 1 for inclusive pixel corners: the length of a side is x2 - x1 + offset.

    Returns:
        (K,) int64 indices of the kept boxes, the highest score first. Boxes with equal scores keep their order.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> nms(boxes, torch.tensor([0.5, 0.9, 0.7]), iou_threshold=0.5, offset=0).tolist()
        [1, 2]
    """
    dtype = working_dtype(boxes)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        # Inclusive corners become exclusive ones when the far corner moves by one pixel.
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in the dtype of the boxes, so an IoU of 0.6 is not greater than a threshold of 0.6. torchvision
    # compares a float32 IoU with a float64 threshold, so the threshold is rounded to float32 here.
    threshold = torch.tensor(iou_threshold, dtype=dtype).item()
    return torchvision.ops.nms(boxes, scores, threshold)
