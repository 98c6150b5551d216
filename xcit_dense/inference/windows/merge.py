"""Joins the objects of overlapping windows: each object of the image becomes one object.

Two objects of one class, from two windows, are the same object

- if one of them is inside the area that both windows share and no border cuts it, so that both windows see all of it:
  by the intersection over the union;
- otherwise by the intersection over the smaller of their two parts in the shared area. An object that is cut by the
  border of a window and its continuation in the neighbour meet this rule, however small one of the parts is.

With the second rule for all pairs, a small object that overlaps a large object of its class would disappear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError
from xcit_dense.inference.windows.objects import Found, Mask
from xcit_dense.rasters.window import Window

_SAME = 0.5  # the intersection, over the union or over the smaller part, of two views of one object
_NEAR = 3.0  # pixels between the box of a cut object and the border that cuts it


class Merger:
    """Merges the objects of an image, row of windows by row of windows, and gives objects that are final.

    The memory has the objects that later rows of windows may continue.

    Args:
        height: The height of the image in pixels.
        width: The width of the image in pixels.

    Example:
        An object across two windows that share the columns from 48 to 64:

        >>> left, right = Window(0, 0, 64, 64), Window(0, 48, 64, 64)
        >>> halves = [Found((30, 10, 64, 20), 0, 0.8, left), Found((48, 10, 70, 20), 0, 0.9, right)]
        >>> [(found.box, found.score) for found in Merger(64, 112).add_row(halves, next_row=64)]
        [((30, 10, 70, 20), 0.9)]
    """

    def __init__(self, height: int, width: int) -> None:
        self._shape = height, width
        self._open: list[Found] = []

    def add_row(self, objects: Iterable[Found], next_row: int) -> Iterator[Found]:
        """Adds the objects of one row of windows.

        Args:
            objects: The objects of all windows of the row.
            next_row: The first pixel row of the next row of windows. The height of the image after the last row.

        Yields:
            The merged objects that no later row can continue. The best score comes first.
        """
        objects = [*self._open, *objects]
        self._open = []
        is_last = next_row >= self._shape[0]
        final: list[Found] = []
        for group in _group(objects, self._shape):
            # The tolerance of a cut object reaches into the next row of windows.
            if is_last or max(member.box[3] for member in group) < next_row - 2 * _NEAR:
                final += _join(group, self._shape)
            else:
                self._open += group
        yield from sorted(final, key=lambda found: -found.score)


def _group(objects: Sequence[Found], shape: tuple[int, int]) -> list[list[Found]]:
    """Puts the objects that are the same object into one group."""
    parents = list(range(len(objects)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for one, other in _pairs(objects):
        if root(one) != root(other) and _is_same(objects[one], objects[other], shape):
            parents[root(other)] = root(one)
    groups: dict[int, list[Found]] = {}
    for index, found in enumerate(objects):
        groups.setdefault(root(index), []).append(found)
    return list(groups.values())


def _pairs(objects: Sequence[Found]) -> Iterator[tuple[int, int]]:
    """Finds the pairs of one class and of different windows whose boxes touch. The time is not quadratic."""
    try:
        import shapely
    except ImportError as error:
        raise MissingLibraryError(
            "Objects of windows are merged with shapely; write pip install 'xcit-dense[large]'."
        ) from error
    if not objects:
        return
    boxes = np.array([found.box for found in objects], float)
    grown = boxes + 2 * _NEAR * np.array([-1, -1, 1, 1])
    tree = shapely.STRtree(shapely.box(*grown.T))
    firsts, seconds = tree.query(shapely.box(*boxes.T), predicate="intersects")
    for one, other in zip(firsts.tolist(), seconds.tolist()):
        first, second = objects[one], objects[other]
        if one < other and first.label == second.label and first.window != second.window:
            yield one, other


def _is_same(one: Found, other: Found, shape: tuple[int, int]) -> bool:
    shared = _intersect(_corners(one.window), _corners(other.window))
    reached = _intersect(_corners(one.window, _NEAR), _corners(other.window, _NEAR))
    if any(_contains(reached, found.box) and not any(_cuts(found, shape)) for found in (one, other)):
        return _are_duplicates(one, other)
    parts = _intersect(_grown(one, shape), reached), _intersect(_grown(other, shape), reached)
    both = _area(_intersect(*parts))
    is_wide = min(shared[2] - shared[0], shared[3] - shared[1]) > 2 * _NEAR
    if both > 0 and is_wide and one.mask is not None and other.mask is not None:
        return _overlap(one.mask, other.mask, shared, of_smaller=True) > _SAME
    return both > _SAME * min(map(_area, parts))


def _are_duplicates(one: Found, other: Found) -> bool:
    """Compares two objects by the intersection over the union of their masks, or else of their boxes."""
    if one.mask is not None and other.mask is not None:
        return _overlap(one.mask, other.mask, _unite([one.box, other.box]), of_smaller=False) > _SAME
    both = _area(_intersect(one.box, other.box))
    return both > _SAME * (_area(one.box) + _area(other.box) - both)


def _overlap(one: Mask, other: Mask, area: Box, of_smaller: bool) -> float:
    """The intersection of two masks in an area, over the smaller one or over the union."""
    x1, y1, x2, y2 = math.floor(area[0]), math.floor(area[1]), math.ceil(area[2]), math.ceil(area[3])
    where = Window(y1, x1, y2 - y1, x2 - x1)
    first, second = one.inside(where), other.inside(where)
    reference = min(first.sum(), second.sum()) if of_smaller else (first | second).sum()
    return float((first & second).sum() / max(reference, 1))


def _join(group: Sequence[Found], shape: tuple[int, int]) -> list[Found]:
    """Makes one object of a group: the union of its members if each one is cut, or else the best complete member.

    A group has more than one complete object where a cut object overlaps two neighbours. Each of them stays.
    """
    by_score = sorted(group, key=lambda member: -member.score)
    complete = [member for member in by_score if not any(_cuts(member, shape))]
    if complete:
        kept: list[Found] = []
        for member in complete:
            if not any(_are_duplicates(member, better) for better in kept):
                kept.append(member)
        return [replace(kept[0], score=by_score[0].score), *kept[1:]]
    masks = [member.mask for member in group if member.mask is not None]
    mask = _unite_masks(masks) if masks else None
    return [replace(by_score[0], box=_unite([member.box for member in group]), mask=mask)]


def _unite_masks(masks: Sequence[Mask]) -> Mask:
    row, column = min(mask.row for mask in masks), min(mask.column for mask in masks)
    bottom = max(mask.row + mask.pixels.shape[0] for mask in masks)
    right = max(mask.column + mask.pixels.shape[1] for mask in masks)
    where = Window(row, column, bottom - row, right - column)
    pixels: npt.NDArray[np.bool_] = np.zeros((where.height, where.width), bool)
    for mask in masks:
        pixels |= mask.inside(where)
    return Mask(row, column, pixels)


Box = tuple[float, float, float, float]
"""The corners x1, y1, x2, y2."""


def _cuts(found: Found, shape: tuple[int, int]) -> tuple[bool, bool, bool, bool]:
    """Whether the left, upper, right and lower border of its window cuts an object. The image's border cuts nothing."""
    x1, y1, x2, y2 = found.box
    left, top, right, bottom = _corners(found.window)
    height, width = shape
    return (
        left > 0 and x1 - left < _NEAR,
        top > 0 and y1 - top < _NEAR,
        right < width and right - x2 < _NEAR,
        bottom < height and bottom - y2 < _NEAR,
    )


def _grown(found: Found, shape: tuple[int, int]) -> Box:
    """The box of an object, a little larger where a border cuts the object. So boxes meet that share no pixels."""
    left, top, right, bottom = _cuts(found, shape)
    x1, y1, x2, y2 = found.box
    return x1 - 2 * _NEAR * left, y1 - 2 * _NEAR * top, x2 + 2 * _NEAR * right, y2 + 2 * _NEAR * bottom


def _corners(window: Window, margin: float = 0.0) -> Box:
    return (
        window.column - margin,
        window.row - margin,
        window.column + window.width + margin,
        window.row + window.height + margin,
    )


def _intersect(one: Box, other: Box) -> Box:
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def _unite(boxes: Sequence[Box]) -> Box:
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _contains(area: Box, box: Box) -> bool:
    return area[0] <= box[0] and area[1] <= box[1] and area[2] >= box[2] and area[3] >= box[3]
