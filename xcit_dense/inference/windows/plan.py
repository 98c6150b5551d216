"""The windows that cover an image, and the weights of their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.window import Window


@dataclass(frozen=True)
class Plan:
    """Windows of one size in rows and columns that cover an image.

    Attributes:
        height: The height of the image in pixels.
        width: The width of the image in pixels.
        side: The side of a window in pixels. An image that is smaller on a side has windows of its own size there.
        overlap: The number of pixels that neighbouring windows share. The last row and the last column of windows end
            at the image's border, so they share more with their neighbours.

    Raises:
        UserError: ``side`` or ``overlap`` is out of range.

    Example:
        >>> plan = Plan(height=60, width=100, side=64, overlap=16)
        >>> plan.rows, plan.columns, plan.shape
        ((0,), (0, 36), (60, 64))
        >>> list(plan.windows(0))[1]
        Window(row=0, column=36, height=60, width=64)
    """

    height: int
    width: int
    side: int
    overlap: int

    def __post_init__(self) -> None:
        check_window(self.side, self.overlap)

    @property
    def shape(self) -> tuple[int, int]:
        """The height and the width of every window."""
        return min(self.side, self.height), min(self.side, self.width)

    @property
    def is_small(self) -> bool:
        """Whether the image is smaller than a window on a side."""
        return self.side > min(self.height, self.width)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The first pixel row of each row of windows."""
        return _starts(self.height, self.side, self.overlap)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The first pixel column of each column of windows."""
        return _starts(self.width, self.side, self.overlap)

    def windows(self, row: int) -> Iterator[Window]:
        """Lists the windows of one row of windows, from left to right.

        Args:
            row: The number of the row of windows, from 0.

        Yields:
            The windows.
        """
        height, width = self.shape
        for column in self.columns:
            yield Window(self.rows[row], column, height, width)

    def final_rows(self, row: int) -> tuple[int, int]:
        """The pixel rows that no later row of windows changes, and that are not final before this row.

        Args:
            row: The number of the row of windows, from 0.

        Returns:
            The first pixel row, and the pixel row after the last one.
        """
        return self.rows[row], self.rows[row + 1] if row + 1 < len(self.rows) else self.height

    def reaching(self, row: int) -> range:
        """The rows of windows before ``row`` whose pixels reach into the pixels of ``row``.

        Args:
            row: The number of the row of windows, from 0.
        """
        first = row
        while first and self.rows[first - 1] + self.shape[0] > self.rows[row]:
            first -= 1
        return range(first, row)

    @property
    def shared_rows(self) -> int:
        """The largest number of pixel rows that two rows of windows share. The last row may share more than others."""
        ends = [start + self.shape[0] for start in self.rows[:-1]]
        return max((end - start for end, start in zip(ends, self.rows[1:])), default=0)

    @cached_property
    def row_weights(self) -> list[npt.NDArray[np.float32]]:
        """For each row of windows the weights of its pixel rows, (h,). In each pixel row, the weights add up to 1."""
        return _weights(self.rows, self.shape[0], self.overlap, self.height)

    @cached_property
    def column_weights(self) -> list[npt.NDArray[np.float32]]:
        """As :attr:`row_weights`, for columns."""
        return _weights(self.columns, self.shape[1], self.overlap, self.width)


def check_window(side: int, overlap: int) -> None:
    """Checks the size and the overlap of windows.

    Args:
        side: The side of a window in pixels.
        overlap: The number of pixels that neighbouring windows share.

    Raises:
        UserError: The side is smaller than 32 pixels, or the overlap is negative or larger than half of the side.
    """
    if side < 32:
        raise UserError(f"A window of {side} pixels is too small; write --window 32 or more, for example 1024.")
    if not 0 <= overlap <= side // 2:
        raise UserError(
            f"An overlap of {overlap} pixels does not fit a window of {side}; write --overlap from 0 to {side // 2}."
        )


def default_overlap(side: int) -> int:
    """The overlap of windows that the user did not choose: a quarter of the side.

    Args:
        side: The side of a window in pixels.
    """
    return side // 4


def check_scale(scale: float) -> None:
    """Checks the size of what the model sees over the size of the window.

    Args:
        scale: The ratio.

    Raises:
        UserError: The ratio is not from 0.01 to 100.
    """
    if not 0.01 <= scale <= 100:
        raise UserError(f"--scale {scale} is not possible; write a number from 0.01 to 100, for example 0.5.")


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The height and width of what the model sees of a window.

    Args:
        height: The height of the window.
        width: The width of the window.
        scale: The ratio.

    Example:
        >>> scaled_size(100, 64, 0.5)
        (50, 32)
    """
    return max(1, round(height * scale)), max(1, round(width * scale))


def _starts(length: int, side: int, overlap: int) -> tuple[int, ...]:
    if length <= side:
        return (0,)
    starts = list(range(0, length - side, side - overlap))
    return (*starts, length - side)


def _weights(starts: tuple[int, ...], size: int, overlap: int, length: int) -> list[npt.NDArray[np.float32]]:
    # A raw weight rises over the overlap from the border of the window to 1. The division by the sum of the raw weights
    # makes the sum of the weights 1, also where more than two windows overlap.
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    raw = np.minimum(distance / max(overlap, 1), 1.0)
    total = np.zeros(length)
    for start in starts:
        total[start : start + size] += raw
    return [(raw / total[start : start + size]).astype(np.float32) for start in starts]
