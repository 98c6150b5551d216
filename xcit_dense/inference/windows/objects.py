"""An object that a detector has found in a window, in the pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.rasters.window import Window
from xcit_dense.structures import Instances


@dataclass(frozen=True)
class Mask:
    """The part of a mask that contains all of its pixels.

    Attributes:
        row: The first pixel row of the part in the image.
        column: The first pixel column.
        pixels: (h, w), bool.
    """

    row: int
    column: int
    pixels: npt.NDArray[np.bool_]

    def inside(self, area: Window) -> npt.NDArray[np.bool_]:
        """Cuts an area out of the mask.

        Args:
            area: The area, in pixels of the image.

        Returns:
            (area.height, area.width), bool.
        """
        found = np.zeros((area.height, area.width), bool)
        top, left = self.row - area.row, self.column - area.column
        height, width = self.pixels.shape
        y1, x1 = max(top, 0), max(left, 0)
        y2, x2 = min(top + height, area.height), min(left + width, area.width)
        if y1 < y2 and x1 < x2:
            found[y1:y2, x1:x2] = self.pixels[y1 - top : y2 - top, x1 - left : x2 - left]
        return found


@dataclass(frozen=True)
class Found:
    """An object that was found in a window.

    Attributes:
        box: The corners x1, y1, x2, y2 in pixels of the image.
        label: The index of the class.
        score: From 0 to 1.
        window: The window. For a merged object the window of its best member.
        mask: None for a detector of boxes.
    """

    box: tuple[float, float, float, float]
    label: int
    score: float
    window: Window
    mask: Mask | None = None

    def as_json(self) -> dict[str, Any]:
        """The object as values that JSON can represent. :func:`from_json` is the inverse."""
        from xcit_dense.media.results import encode_mask

        window = [self.window.row, self.window.column, self.window.height, self.window.width]
        values: dict[str, Any] = {"box": self.box, "label": self.label, "score": self.score, "window": window}
        if self.mask is not None:
            values["mask"] = [self.mask.row, self.mask.column, encode_mask(self.mask.pixels)]
        return values


def from_json(values: dict[str, Any]) -> Found:
    """Reads an object that :meth:`Found.as_json` has written.

    Args:
        values: The values.

    Example:
        >>> found = Found((8.0, 8.0, 10.0, 9.0), 1, 0.5, Window(0, 0, 64, 64), Mask(8, 8, np.array([[True, False]])))
        >>> again = from_json(found.as_json())
        >>> again.box, again.mask.pixels.tolist()
        ((8.0, 8.0, 10.0, 9.0), [[True, False]])
    """
    from pycocotools import mask as coco_mask

    mask = None
    if "mask" in values:
        row, column, code = values["mask"]
        mask = Mask(row, column, coco_mask.decode(code).astype(bool))
    x1, y1, x2, y2 = values["box"]
    return Found((x1, y1, x2, y2), values["label"], values["score"], Window(*values["window"]), mask)


def in_image(found: Instances, window: Window, score_thr: float) -> Sequence[Found]:
    """Moves the objects of a window to their place in the image.

    Args:
        found: The objects, in pixels of the window, with scores.
        window: The window.
        score_thr: The lowest score of an object that is kept.

    Returns:
        The objects. An object whose mask is empty is left out.
    """
    assert found.scores is not None
    offset = np.array([window.column, window.row] * 2, float)
    objects = []
    for index in np.flatnonzero(found.scores >= score_thr).tolist():
        mask = None
        if found.masks is not None:
            mask = _crop(found.masks[index], window)
            if mask is None:
                continue
        x1, y1, x2, y2 = (np.asarray(found.boxes[index], float) + offset).tolist()
        label, score = int(found.labels[index]), float(found.scores[index])
        objects.append(Found((x1, y1, x2, y2), label, score, window, mask))
    return objects


def _crop(mask: npt.NDArray[np.bool_], window: Window) -> Mask | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    pixels = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return Mask(window.row + int(rows[0]), window.column + int(columns[0]), pixels)


def encode_in_image(mask: Mask, height: int, width: int) -> dict[str, Any]:
    """Encodes a mask as COCO does, in the complete image. The memory does not grow with the image.

    Args:
        mask: The mask.
        height: The height of the image.
        width: The width of the image. COCO's code has 32 bits: the image has fewer than 2**32 pixels.

    Returns:
        The run-length code: ``size`` (height, width) and ``counts``, a text.

    Example:
        >>> encode_in_image(Mask(0, 0, np.eye(2, dtype=bool)), 2, 2)
        {'size': [2, 2], 'counts': '0120'}
    """
    from pycocotools import mask as coco_mask

    # The code counts pixels column by column. Each column of the part gets a pixel of 0 before and after its pixels.
    edges = np.diff(np.pad(mask.pixels.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    columns, rows = np.nonzero(edges)
    places = (mask.column + columns.astype(np.int64)) * height + mask.row + rows
    counts = np.diff(np.concatenate([[0], places, [height * width]])).tolist()
    if counts[-1] == 0:  # the last pixel of the image is in the mask
        counts.pop()
    code = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode()}
