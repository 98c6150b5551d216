"""Joins the class scores of overlapping windows. The memory does not grow with the image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.inference.windows.plan import Plan
from xcit_dense.rasters.window import Window
from xcit_dense.structures import IGNORED

Scores = npt.NDArray[np.float32]
"""The scores of a window: (C, h, w), float32, from 0 to 1. The scores of a pixel add up to 1."""


class Blender:
    """Adds up weighted scores of windows, row of windows by row of windows, and gives scores that are final.

    The weight of a window falls linearly over the overlap, so labels have no seam. The weights of a pixel add up to 1
    (:class:`xcit_dense.inference.windows.plan.Plan`). The blended values are probabilities and not logits, because a
    window with large logits would outvote its neighbour.

    The memory has the scores of one window. The scores of pixel rows that the next row of windows continues are in a
    file with (C, shared rows, W) numbers.

    Args:
        plan: The windows.
        classes: C, the number of classes.
        path: The file. It is replaced if it exists. It can be removed after the last row.

    Raises:
        UserError: The disk has too little space for the file.

    Example:
        >>> plan = Plan(height=48, width=100, side=64, overlap=16)
        >>> blender = Blender(plan, classes=2, path=Path("shared.npy"))
        >>> scores = np.full((2, 48, 64), 0.5, np.float32)
        >>> for window, final in blender.add_row(0, [scores, scores]):
        ...     print(window.column, window.width, final.min(), final.max())
        0 36 0.5 0.5
        36 64 0.5 0.5
    """

    def __init__(self, plan: Plan, classes: int, path: Path) -> None:
        self._plan = plan
        self._classes = classes
        self._shared: Scores = np.zeros((classes, 0, plan.width), np.float32)
        if plan.shared_rows > 0:
            try:
                self._shared = np.lib.format.open_memmap(
                    path, mode="w+", dtype=np.float32, shape=(classes, plan.shared_rows, plan.width)
                )
                # A write to a memory map ends the process if the disk is full. So the disk space is reserved first.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                raise UserError(f"{path} cannot be written: {error.strerror or error}; free some space.") from error

    def add_row(self, row: int, scores: Iterable[Scores | None]) -> Iterator[tuple[Window, Scores]]:
        """Adds the windows of one row of windows.

        Args:
            row: The number of the row. Rows come in order. The first row may be any row.
            scores: The scores of each window, from left to right. None for a window that was skipped or that failed.

        Yields:
            Parts of the image, from left to right, with their final scores: (C, h, w). The sum of a pixel's scores is
            the sum of the weights of its windows that were not None: 1, or less next to a None, or 0.
        """
        plan = self._plan
        height, width = plan.shape
        first, end = plan.final_rows(row)
        final, left = end - first, first + height - end  # pixel rows that are final, and pixel rows that are not
        held: Scores = np.zeros((self._classes, height, width), np.float32)
        starts = plan.columns
        for number, (start, found) in enumerate(zip(starts, scores, strict=True)):
            if found is not None:
                weights = plan.row_weights[row][:, None] * plan.column_weights[number]
                held += found * weights
            after = starts[number + 1] if number + 1 < len(starts) else plan.width
            done = after - start  # columns that no later window of this row changes
            part = held[:, :, :done]
            reached = min(self._shared.shape[1], height)
            part[:, :reached] += self._shared[:, :reached, start:after]
            self._shared[:, :left, start:after] = part[:, final:]
            self._shared[:, left:, start:after] = 0
            yield Window(first, start, final, done), part[:, :final]
            held = np.concatenate([held[:, :, done:], np.zeros_like(part)], axis=2)


def stored_bytes(plan: Plan, classes: int, scores: bool = False) -> int:
    """Returns the bytes on the disk that the labels of an image need until they are written as an image.

    Args:
        plan: The windows.
        classes: The number of classes.
        scores: Whether the class scores are kept too.

    Example:
        >>> stored_bytes(Plan(height=32_768, width=32_768, side=1024, overlap=128), classes=150)
        13656653824
    """
    pixels = plan.height * plan.width
    labels = pixels * np.min_scalar_type(empty_label(classes)).itemsize
    shared = plan.shared_rows * plan.width * classes * 4
    return labels + shared + (2 * pixels * classes if scores else 0)


def empty_label(classes: int) -> int:
    """The value of pixels without a class in a label map.

    Args:
        classes: The number of classes.

    Returns:
        255, or 65535 for a model of more than 255 classes.
    """
    return IGNORED if classes <= IGNORED else 65535


def choose(scores: Scores, threshold: float | None = None) -> npt.NDArray[np.uint16]:
    """Chooses the class of each pixel.

    Args:
        scores: (C, h, w), as :meth:`Blender.add_row` gives them.
        threshold: For a model of two classes with one logit: the probability above which a pixel has the second class.
            By default a pixel has the class with the highest score.

    Returns:
        (h, w), class indices; :func:`empty_label` where all scores are 0.

    Example:
        >>> scores = np.array([[[0.2, 0.7, 0]], [[0.3, 0.3, 0]]], np.float32)
        >>> choose(scores).tolist(), choose(scores, threshold=0.25).tolist()
        ([[1, 0, 255]], [[1, 1, 255]])
    """
    total = scores.sum(axis=0)
    labels = scores.argmax(axis=0) if threshold is None else scores[1] > threshold * total
    return np.where(total > 0, labels, empty_label(len(scores))).astype(np.uint16)
