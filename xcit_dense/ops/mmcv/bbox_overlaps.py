"""Overlaps of axis-aligned boxes with the signature of mmcv's compiled operator."""

from __future__ import annotations

import torch
from torch import Tensor

from xcit_dense.ops.mmcv.common import working_dtype


@torch.no_grad()
def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Writes the overlaps of boxes into `ious`, as ``mmcv._ext.bbox_overlaps`` does.

    Args:
        bboxes1: (M, 4) corners x1, y1, x2, y2 in pixels, of any floating-point dtype.
        bboxes2: (N, 4) corners.
        ious: (M, N), or (M,) for aligned boxes, which is overwritten with values in [0, 1].
        mode: 0 for the intersection over the union, 1 for the intersection over the area of the first box.
        aligned: Whether box i of the first set is compared with box i of the second set only.
        offset: 0, or 1 for inclusive pixel corners: the length of a side is x2 - x1 + offset.

    Example:
        >>> ious = torch.zeros(1, 2)
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]])
        >>> bbox_overlaps(boxes[:1], boxes, ious, mode=0, aligned=False, offset=0)
        >>> ious.tolist()
        [[1.0, 0.5]]
    """
    dtype = working_dtype(bboxes1)
    first, second = bboxes1.to(dtype), bboxes2.to(dtype)
    if not aligned:
        first = first[:, None]  # (M, 1, 4)
    ious.copy_(overlaps(first, second, offset, over_first=mode == 1))


def overlaps(first: Tensor, second: Tensor, offset: int = 0, *, over_first: bool = False) -> Tensor:
    """Returns the overlaps of boxes whose shapes can be broadcast.

    Args:
        first: (..., 4) corners x1, y1, x2, y2.
        second: (..., 4) corners, of the same dtype.
        offset: Added to the length of each side, 0 or 1.
        over_first: Whether the intersection is divided by the area of the first box. By default, it is divided by the
            area of the union.

    Returns:
        (...) overlaps in [0, 1]. The overlap is NaN if the divisor is 0.
    """
    near, far = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    common = (far - near + offset).clamp(min=0).prod(-1)
    area = (first[..., 2:] - first[..., :2] + offset).prod(-1)
    if over_first:
        return common / area
    return common / (area + (second[..., 2:] - second[..., :2] + offset).prod(-1) - common)
