"""Overlaps and NMS of rotated boxes and of quadrilaterals with the signatures of mmcv's compiled operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from xcit_dense.ops.mmcv.nms import suppress

_Point = tuple[Tensor, Tensor]  # x and y of points or vectors
_Overlaps = Callable[[Tensor, Tensor, bool], Tensor]  # of the first boxes, the second boxes, over the area of the first
_PAIRS_AT_ONCE = 2**15  # a pair of quadrilaterals needs about 2 KB
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
    _write(_overlaps_of_rotated, boxes1.double(), boxes2.double(), ious, mode_flag, aligned)


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
    _write(_overlaps_of_quadrilaterals, _quadrilaterals(boxes1), _quadrilaterals(boxes2), ious, mode_flag, aligned)


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
    return _nms(_overlaps_of_rotated, dets[:, :5].double(), order, iou_threshold)


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
    return _nms(_overlaps_of_quadrilaterals, _quadrilaterals(dets), order, iou_threshold)


@torch.no_grad()
def _write(overlaps: _Overlaps, first: Tensor, second: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    over_first = mode_flag == 1
    if aligned:
        pairs = zip(first.split(_PAIRS_AT_ONCE), second.split(_PAIRS_AT_ONCE))
        chunks = [overlaps(some, others, over_first) for some, others in pairs]
    else:
        rows = max(_PAIRS_AT_ONCE // max(len(second), 1), 1)
        chunks = [overlaps(some[:, None], second, over_first).flatten() for some in first.split(rows)]
    ious.copy_(torch.cat(chunks))


@torch.no_grad()
def _nms(overlaps: _Overlaps, boxes: Tensor, order: Tensor, iou_threshold: float) -> Tensor:
    # An overlap that equals the threshold suppresses a box. The overlap may
    # be smaller than the exact value by four tolerances, which is the IoU of two equal rotated boxes.
    threshold = iou_threshold - 4 * _TOLERANCE

    def suppressed(best: Tensor, rest: Tensor) -> Tensor:
        return overlaps(boxes[best], boxes[rest], False) >= threshold

    return order.new_tensor([group[0] for group in suppress(order, suppressed)])


def _overlaps_of_rotated(first: Tensor, second: Tensor, over_first: bool) -> Tensor:
    """Returns the overlaps of rotated boxes (..., 5) whose shapes can be broadcast.

    Each side of a box contributes the part that is inside the other box to the border of the intersection. By Green's
    theorem, the area is half the sum of the cross products of each part's start and vector.
    """
    x1, y1, width1, height1, angle1 = first.unbind(-1)
    x2, y2, width2, height2, angle2 = second.unbind(-1)
    # Two sides may lie on each other, and only one of them may count. If the second box is slightly smaller, the sides
    # do not lie on each other.
    half1, half2 = (width1.abs() / 2, height1.abs() / 2), (width2.abs() / 2, height2.abs() / 2)
    smaller = (half2[0] * (1 - _TOLERANCE), half2[1] * (1 - _TOLERANCE))
    x, y, angle = x1 - x2, y1 - y2, angle1 - angle2
    common = torch.zeros_like(angle)
    # The first box in the frame of the second box. The cross product of a corner and a side around the box's own centre
    # is half the area of the box.
    centre = _turned((x, y), -angle2)
    for start, side in _sides(centre, half1, angle):
        share = _share_inside(start, side, smaller)
        common += share * (half1[0] * half1[1] + (centre[0] * side[1] - centre[1] * side[0]) / 2)
    # The second box in the frame of the first box. The fixed point of the theorem stays the centre of the second box.
    for start, side in _sides(_turned((-x, -y), -angle1), smaller, -angle):
        common += _share_inside(start, side, half1) * (smaller[0] * smaller[1])
    return _ratio(common, 4 * half1[0] * half1[1], 4 * half2[0] * half2[1], over_first)


def _sides(centre: _Point, half: _Point, angle: Tensor) -> Iterator[tuple[_Point, _Point]]:
    """Yields the start and the vector of each side of rotated boxes, in the order of the corners.

    Args:
        centre: x and y of the centres.
        half: Half the width and half the height.
        angle: The angles in radians.
    """
    cosine, sine = angle.cos(), angle.sin()
    along, across = (cosine * half[0], sine * half[0]), (-sine * half[1], cosine * half[1])  # half a side
    for _ in range(4):
        start = (centre[0] - along[0] - across[0], centre[1] - along[1] - across[1])
        yield start, (2 * along[0], 2 * along[1])
        along, across = across, (-along[0], -along[1])  # a quarter turn


def _turned(vector: _Point, angle: Tensor) -> _Point:
    cosine, sine = angle.cos(), angle.sin()
    return vector[0] * cosine - vector[1] * sine, vector[0] * sine + vector[1] * cosine


def _share_inside(start: _Point, side: _Point, half: _Point) -> Tensor:
    """Returns which share of each side is inside an upright box around the origin, in [0, 1].

    Args:
        start: x and y of the start of the side.
        side: The vector from the start to the end.
        half: Half the width and half the height of the upright box.
    """
    enters, leaves = torch.zeros_like(side[0]), torch.ones_like(side[0])
    for coordinate, length, limit in zip(start, side, half):
        # The side crosses the two borders at these parts of its length. A side that is parallel to the borders crosses
        # them at infinity. It gives NaN on a border, which counts as outside.
        one, other = (-limit - coordinate) / length, (limit - coordinate) / length
        enters = torch.maximum(enters, torch.fmin(one, other))
        leaves = torch.minimum(leaves, torch.fmax(one, other))
    return (leaves - enters).clamp(min=0)


def _ratio(common: Tensor, area1: Tensor, area2: Tensor, over_first: bool) -> Tensor:
    """Returns the area of the intersection over that of the union, or over the first area, and 0 without an area."""
    overlap = common / (area1 if over_first else area1 + area2 - common)
    return torch.where((area1 < _NO_AREA) | (area2 < _NO_AREA), 0, overlap)


def _overlaps_of_quadrilaterals(first: Tensor, second: Tensor, over_first: bool) -> Tensor:
    """Returns the overlaps of quadrilaterals (..., 4, 2) whose shapes can be broadcast."""
    shape = torch.broadcast_shapes(first.shape, second.shape)
    # Coordinates around the middle of both lose fewer digits.
    middle = (first.mean(-2, keepdim=True) + second.mean(-2, keepdim=True)) / 2
    first, second = (first - middle).expand(shape), (second - middle).expand(shape)
    crossings, crossed = _crossings(first, second)
    points = torch.cat([first, second, crossings], -2)  # (..., 24, 2)
    valid = torch.cat([_inside(first, second), _inside(second, first), crossed], -1)
    touching = valid.any(-1)
    common = torch.zeros_like(points[..., 0, 0])
    common[touching] = _area_of_hull(points[touching], valid[touching])
    return _ratio(common, _signed_area(first).abs(), _signed_area(second).abs(), over_first)


def _quadrilaterals(boxes: Tensor) -> Tensor:
    return boxes[:, :8].double().reshape(-1, 4, 2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _signed_area(polygon: Tensor) -> Tensor:
    return _cross(polygon, polygon.roll(-1, -2)).sum(-1) / 2


def _area_of_hull(points: Tensor, valid: Tensor) -> Tensor:
    """Returns the area of the convex hull of the valid points (K, P, 2), at least one for each hull.

    The hull is walked from its lowest point. Each step goes to the point with the smallest turn.
    """
    # Few of the points are valid. The largest number of valid points of one hull is kept.
    valid, order = valid.sort(-1, descending=True)
    most = max(valid.sum(-1).tolist(), default=1)
    valid, points = valid[..., :most], _taken(points, order[..., :most])
    lowest = torch.where(valid, points[..., 1], torch.inf).argmin(-1, keepdim=True)
    points = points - _taken(points, lowest)
    current, heading = torch.zeros_like(points[..., :1, :]), torch.zeros_like(points[..., :1, 0])
    area = torch.zeros_like(points[..., 0, 0])
    for _ in range(points.shape[-2]):
        step = points - current
        angle = torch.atan2(step[..., 1], step[..., 0]) % (2 * torch.pi)
        allowed = valid & (step.square().sum(-1) > _TOLERANCE**2) & (angle >= heading - _TOLERANCE)
        heading, chosen = torch.where(allowed, angle, torch.inf).min(-1, keepdim=True)
        complete = heading.isinf()
        if complete.all():
            break
        # A complete walk stays at its start.
        following = torch.where(complete[..., None], 0, _taken(points, chosen))
        area = area + _cross(current, following)[..., 0] / 2
        current = following
    return area.abs()


def _taken(points: Tensor, index: Tensor) -> Tensor:
    """(..., P, 2), (..., Q) -> (..., Q, 2)."""
    return points.gather(-2, index[..., None].expand(*index.shape, 2))


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
