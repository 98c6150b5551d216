"""Overlaps and NMS of rotated boxes and of quadrilaterals with the signatures of mmcv's compiled operators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xcit_dense.ops.mmcv.nms import suppress

_Area = Callable[[Tensor, Tensor], Tensor]  # of points (..., P, 2), of which some are valid (..., P)
_PAIRS_AT_ONCE = 2**15  # a pair needs about 2 KB
_TOLERANCE = 1e-9  # of float64, for points on an edge
_NO_AREA = 1e-14  # as in mmcv


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Writes the overlaps of rotated boxes into `ious`, as ``mmcv._ext.box_iou_rotated`` does.

    Args:
        boxes1: (M, 5) centre x, centre y, width, height in pixels and angle in radians. A positive angle turns the
            x-axis towards the y-axis.
        boxes2: (N, 5).
        ious: (M * N,), or (M,) for aligned boxes, which is overwritten with values in [0, 1]. The overlap is 0 if a box
            has no area.
        mode_flag: 0 for the intersection over the union, 1 for the intersection over the area of the first box.
        aligned: Whether box i of the first set is compared with box i of the second set only.

    Example:
        >>> boxes = torch.tensor([[2.0, 2.0, 4.0, 2.0, 0.0], [2.0, 2.0, 2.0, 4.0, torch.pi / 2]])
        >>> ious = torch.zeros(1)
        >>> box_iou_rotated(boxes[:1], boxes[1:], ious, mode_flag=0, aligned=True)
        >>> round(ious.item(), 5)
        1.0
    """
    _write(_corners(boxes1), _corners(boxes2), ious, mode_flag, aligned)


def box_iou_quadri(boxes1: Tensor, boxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Writes the overlaps of quadrilaterals into `ious`, as ``mmcv._ext.box_iou_quadri`` does.

    The overlap is that of mmcv. It is the geometric overlap if both are rectangles. mmcv treats a corner as inside if
    it is inside the rectangle on the first and the last side, and the intersection is the convex hull of these corners
    and of the points where sides cross.

    Args:
        boxes1: (M, 8) corners x1, y1, ..., x4, y4 in pixels.
        boxes2: (N, 8).
        ious: As for :func:`box_iou_rotated`.
        mode_flag: As for :func:`box_iou_rotated`.
        aligned: As for :func:`box_iou_rotated`.
    """
    _write(_quadrilaterals(boxes1), _quadrilaterals(boxes2), ious, mode_flag, aligned, _area_of_hull)


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Drops rotated boxes that overlap a box with a higher score, as ``mmcv._ext.nms_rotated`` does.

    Args:
        dets: (N, 5) boxes as for :func:`box_iou_rotated`, or (N, 6) with a label in the last column.
        scores: Not used: `order` has their order.
        order: (N,) indices of the boxes, the highest score first.
        dets_sorted: Not used.
        labels: Not used.
        iou_threshold: A box is dropped if its IoU with a kept box is at least this, in [0, 1].
        multi_label: Not used: mmcv compares boxes of all labels.

    Returns:
        (K,) int64 indices of the kept boxes, the highest score first.
    """
    return _nms(_corners(dets), order, iou_threshold)


def nms_quadri(
    dets: Tensor, scores: Tensor, order: Tensor, dets_sorted: Tensor, iou_threshold: float, multi_label: bool
) -> Tensor:
    """Drops quadrilaterals that overlap one with a higher score, as ``mmcv._ext.nms_quadri`` does.

    Args:
        dets: (N, 8) quadrilaterals as for :func:`box_iou_quadri`, or (N, 9) with a label in the last column.
        scores: Not used: `order` has their order.
        order: As for :func:`nms_rotated`.
        dets_sorted: Not used.
        iou_threshold: As for :func:`nms_rotated`.
        multi_label: Not used: mmcv compares quadrilaterals of all labels.

    Returns:
        (K,) int64 indices of the kept quadrilaterals, the highest score first.
    """
    return _nms(_quadrilaterals(dets), order, iou_threshold, _area_of_hull)


def _area_around(points: Tensor, valid: Tensor) -> Tensor:
    """Returns the area of the convex polygon whose corners are the valid points (..., P, 2), in any order."""
    count = valid.sum(-1, keepdim=True)[..., None].clamp(min=1)
    points = torch.where(valid[..., None], points, 0)
    points = torch.where(valid[..., None], points - points.sum(-2, keepdim=True) / count, 0)
    angles = torch.where(valid, torch.atan2(points[..., 1], points[..., 0]), torch.inf)
    order = angles.sort(-1).indices[..., None].expand(points.shape)
    points, valid = points.gather(-2, order), valid.gather(-1, order[..., 0])
    # The invalid points come last. The first point in their place closes the polygon and adds no area.
    points = torch.where(valid[..., None], points, points[..., :1, :])
    return _signed_area(points).abs()


def _area_of_hull(points: Tensor, valid: Tensor) -> Tensor:
    """Returns the area of the convex hull of the valid points (..., P, 2).

    The hull is walked from its lowest point. Each step goes to the point with the smallest turn.
    """
    lowest = torch.where(valid, points[..., 1], torch.inf).argmin(-1, keepdim=True)
    points = points - _taken(points, lowest)
    current, heading = torch.zeros_like(points[..., :1, :]), torch.zeros_like(points[..., :1, 0])
    area = torch.zeros_like(points[..., 0, 0])
    for _ in range(points.shape[-2]):
        step = points - current
        angle = torch.atan2(step[..., 1], step[..., 0]) % (2 * torch.pi)
        allowed = valid & (step.square().sum(-1) > _TOLERANCE**2) & (angle >= heading - _TOLERANCE)
        heading, chosen = torch.where(allowed, angle, torch.inf).min(-1, keepdim=True)
        # A walk that is complete stays at its start.
        following = torch.where(heading[..., None].isinf(), 0, _taken(points, chosen))
        area = area + _cross(current, following)[..., 0] / 2
        current = following
    return area.abs()


def _taken(points: Tensor, index: Tensor) -> Tensor:
    """(..., P, 2), (..., 1) -> (..., 1, 2)."""
    return points.gather(-2, index[..., None].expand(*index.shape, 2))


@torch.no_grad()
def _write(
    first: Tensor, second: Tensor, ious: Tensor, mode_flag: int, aligned: bool, area: _Area = _area_around
) -> None:
    if aligned:
        chunks = [
            _overlaps(*pair, area, over_first=mode_flag == 1)
            for pair in zip(first.split(_PAIRS_AT_ONCE), second.split(_PAIRS_AT_ONCE))
        ]
    else:
        rows = max(_PAIRS_AT_ONCE // max(len(second), 1), 1)
        chunks = [
            _overlaps(some[:, None], second, area, over_first=mode_flag == 1).flatten() for some in first.split(rows)
        ]
    ious.copy_(torch.cat(chunks))


@torch.no_grad()
def _nms(polygons: Tensor, order: Tensor, iou_threshold: float, area: _Area = _area_around) -> Tensor:
    def suppressed(best: Tensor, rest: Tensor) -> Tensor:
        return _overlaps(polygons[best], polygons[rest], area, over_first=False) >= iou_threshold

    return order.new_tensor([group[0] for group in suppress(order, suppressed)])


def _corners(boxes: Tensor) -> Tensor:
    """Returns the corners of rotated boxes, (N, 4, 2) in float64."""
    centre, (width, height, angle) = boxes[:, None, :2].double(), boxes[:, 2:5].double().unbind(1)
    cosine, sine = angle.cos(), angle.sin()
    along = torch.stack([cosine * width, sine * width], 1)[:, None] / 2  # (N, 1, 2): half a side
    across = torch.stack([-sine * height, cosine * height], 1)[:, None] / 2
    return torch.cat(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across], 1
    )


def _quadrilaterals(boxes: Tensor) -> Tensor:
    return boxes[:, :8].double().reshape(-1, 4, 2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _signed_area(polygon: Tensor) -> Tensor:
    return _cross(polygon, polygon.roll(-1, -2)).sum(-1) / 2


def _overlaps(first: Tensor, second: Tensor, area: _Area, *, over_first: bool) -> Tensor:
    """Returns the overlaps of convex polygons (..., 4, 2) whose shapes can be broadcast."""
    shape = torch.broadcast_shapes(first.shape, second.shape)
    # Coordinates around the middle of both polygons lose fewer digits.
    middle = (first.mean(-2, keepdim=True) + second.mean(-2, keepdim=True)) / 2
    first, second = (first - middle).expand(shape), (second - middle).expand(shape)
    crossings, crossed = _crossings(first, second)
    points = torch.cat([first, second, crossings], -2)  # (..., 24, 2)
    valid = torch.cat([_inside(first, second), _inside(second, first), crossed], -1)
    common = area(points, valid)
    area1, area2 = _signed_area(first).abs(), _signed_area(second).abs()
    overlap = common / (area1 if over_first else area1 + area2 - common)
    return torch.where((area1 < _NO_AREA) | (area2 < _NO_AREA), 0, overlap)


def _inside(points: Tensor, polygon: Tensor) -> Tensor:
    """Returns which points (..., P, 2) are inside a rectangle (..., 4, 2) or on its edge, (..., P)."""
    corner = polygon[..., :1, :]
    inside = torch.ones_like(points[..., 0], dtype=torch.bool)
    for side in (polygon[..., 1:2, :] - corner, polygon[..., 3:, :] - corner):
        part = ((points - corner) * side).sum(-1) / side.square().sum(-1)
        inside &= (part >= -_TOLERANCE) & (part <= 1 + _TOLERANCE)
    return inside


def _crossings(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the points where the sides of polygons cross, (..., 16, 2), and whether they do, (..., 16)."""
    start, other = first[..., :, None, :], second[..., None, :, :]  # (..., 4, 1, 2), (..., 1, 4, 2)
    side, other_side = first.roll(-1, -2)[..., :, None, :] - start, second.roll(-1, -2)[..., None, :, :] - other
    determinant = _cross(side, other_side)  # (..., 4, 4)
    lengths = side.norm(dim=-1) * other_side.norm(dim=-1)
    parallel = determinant.abs() <= _TOLERANCE * lengths
    safe = torch.where(parallel, 1, determinant)
    along, other_along = _cross(other - start, other_side) / safe, _cross(other - start, side) / safe
    crossed = ~parallel & (along >= 0) & (along <= 1) & (other_along >= 0) & (other_along <= 1)
    return (start + along[..., None] * side).flatten(-3, -2), crossed.flatten(-2)
