"""Non-maximum suppression of axis-aligned boxes with the signatures of mmcv's compiled operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

from xcit_dense.ops.mmcv.bbox_overlaps import overlaps
from xcit_dense.ops.mmcv.common import working_dtype

_WORTH_PARTS = 2000
"""The number of boxes from which separate parts save time."""

_PARTS = 32
"""Boxes are split into at most this number of parts."""


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
    if boxes.device.type != "cpu" or len(boxes) < _WORTH_PARTS or threshold < 0:
        return torchvision.ops.nms(boxes, scores, threshold)
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    for part in _separate_parts(boxes):
        kept[part[torchvision.ops.nms(boxes[part], scores[part], threshold)]] = True
    order = scores.sort(descending=True, stable=True).indices
    return order[kept[order]]


def _separate_parts(boxes: Tensor) -> Iterator[Tensor]:
    """Splits boxes into parts that do not overlap along the x-axis.

    torchvision compares each kept box with all boxes after it. mmcv moves boxes of different classes or levels apart,
    so that one call serves all of them. Each part needs fewer comparisons.

    Args:
        boxes: (N, 4) corners.

    Yields:
        (K,) indices of the boxes of a part, in ascending order.
    """
    start, order = boxes[:, 0].sort()
    reach = boxes[order, 2].cummax(0).values
    gap = torch.cat([start.new_ones(1, dtype=torch.bool), start[1:] > reach[:-1]])
    # The position of the first box of the group of each box, in steps of a part.
    first = (torch.arange(len(boxes)) * gap).cummax(0).values * _PARTS // len(boxes)
    sizes = first.unique_consecutive(return_counts=True)[1]
    for part in order.split(sizes.tolist()):
        yield part.sort().values


@torch.no_grad()
def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lowers the scores of boxes that overlap a better box, as ``mmcv._ext.softnms`` does.

    Source: Bodla et al., "Soft-NMS", section 3.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2 in pixels, of any floating-point dtype.
        scores: (N,) scores.
        dets: (N, 5). The first K rows are overwritten with the corners and the new scores of the kept boxes.
        iou_threshold: For the methods 0 and 1: an IoU below this leaves the score unchanged, in [0, 1].
        sigma: For the method 2: the width of the Gaussian.
        min_score: A box is dropped when its score falls below this.
        method: 0 sets the score to 0, 1 multiplies the score by 1 - IoU, 2 multiplies it by exp(-IoU² / sigma).
        offset: 0, or 1 for inclusive pixel corners.

    Returns:
        (K,) int64 indices of the kept boxes, the highest new score first. The IoU of two boxes without area is 0.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]])
        >>> dets = torch.zeros(2, 5)
        >>> softnms(boxes, torch.tensor([0.5, 0.8]), dets, 0.3, 0.5, 0.01, method=1, offset=0).tolist()
        [1, 0]
        >>> dets[:, 4].tolist()
        [0.800000011920929, 0.25]
    """
    dtype = working_dtype(boxes)
    indices = torch.arange(len(boxes), device=boxes.device, dtype=dtype)
    rows = torch.cat([boxes.to(dtype), scores.to(dtype)[:, None], indices[:, None]], 1)  # (N, 6)
    done = 0
    while done < len(rows):
        # The swaps and the order of the rows are those of mmcv, so equal scores give an equal order.
        best = done + int(rows[done:, 4].argmax())
        if best != done:
            taken = rows[best].clone()
            rows[best] = rows[done]
            rows[done] = taken
        done += 1
        rest = rows[done:]
        overlap = overlaps(rows[done - 1, :4], rest[:, :4], offset).nan_to_num(0)
        if method == 2:
            rest[:, 4] *= torch.exp(-overlap.square() / sigma)
        else:
            lowered = 1 - overlap if method == 1 else torch.zeros_like(overlap)
            rest[:, 4] *= torch.where(overlap >= iou_threshold, lowered, 1)
        kept = rest[:, 4] >= min_score
        count = int(kept.sum())
        if count < len(rest):
            # Kept rows from the end fill the places of the dropped rows.
            rest[:count][~kept[:count]] = rest[count:][kept[count:]].flip(0)
            rows = rows[: done + count]
    dets[: len(rows)] = rows[:, :5].to(dets)
    return rows[:, 5].long()


@torch.no_grad()
def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups each kept box with the boxes that it suppresses, as ``mmcv._ext.nms_match`` does.

    Args:
        dets: (N, 5) corners x1, y1, x2, y2 in pixels and the score, of any floating-point dtype.
        iou_threshold: A box is suppressed if its IoU with a kept box is at least this, in [0, 1].

    Returns:
        For each kept box, the highest score first: its index, then the indices of the boxes that it suppresses, the
        highest score first.

    Example:
        >>> boxes = [[0.0, 0.0, 4.0, 4.0, 0.5], [9.0, 0.0, 12.0, 4.0, 0.7], [0.0, 0.0, 4.0, 3.0, 0.9]]
        >>> nms_match(torch.tensor(boxes), iou_threshold=0.5)
        [[2, 0], [1]]
    """
    dets = dets.to(working_dtype(dets))
    boxes = dets[:, :4]
    order = dets[:, 4].sort(descending=True, stable=True).indices
    return suppress(order, lambda best, rest: overlaps(boxes[best], boxes[rest]) >= iou_threshold)


def suppress(order: Tensor, suppressed: Callable[[Tensor, Tensor], Tensor]) -> list[list[int]]:
    """Goes through boxes in order, keeps each box that is left, and removes the boxes that the kept box suppresses.

    Args:
        order: (N,) indices of the boxes, the best first.
        suppressed: Receives the index of a kept box, (), and the indices of the boxes after it, (M,). Returns which of
            these boxes the kept box suppresses, (M,) bool.

    Returns:
        For each kept box: its index, then the indices of the boxes that it suppresses, in order.
    """
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        matched = suppressed(best, rest)
        groups.append([int(best), *rest[matched].tolist()])
        order = rest[~matched]
    return groups
