"""A window: the rectangle of an image that is read or written at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels.

    Attributes:
        row: The first row, from 0.
        column: The first column, from 0.
        height: The number of rows.
        width: The number of columns.

    Example:
        >>> import numpy as np
        >>> window = Window(row=1, column=2, height=3, width=4)
        >>> np.zeros((10, 10, 3))[window.slices].shape
        (3, 4, 3)
        >>> print(window)
        rows 1 to 4, columns 2 to 6
    """

    row: int
    column: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns, as an index of an array (H, W, ...)."""
        return slice(self.row, self.row + self.height), slice(self.column, self.column + self.width)

    def __str__(self) -> str:
        rows = f"rows {self.row} to {self.row + self.height}"
        return f"{rows}, columns {self.column} to {self.column + self.width}"


def blocks_of(height: int, width: int, size: int) -> Iterator[Window]:
    """Divides an image into square blocks without overlap. Blocks at the right and lower border are smaller.

    Args:
        height: The number of rows of the image.
        width: The number of columns of the image.
        size: The height and width of a block.

    Yields:
        The blocks, row by row.

    Example:
        >>> [(block.row, block.column, block.width) for block in blocks_of(4, 7, size=4)]
        [(0, 0, 4), (0, 4, 3)]
    """
    yield from blocks_of_rows(range(height), width, size)


def blocks_of_rows(rows: range, width: int, size: int) -> Iterator[Window]:
    """Divides some rows of an image into blocks, as :func:`blocks_of` does.

    Args:
        rows: The rows.
        width: The number of columns of the image.
        size: The height and width of a block.

    Yields:
        The blocks, row by row.

    Example:
        >>> [(block.row, block.height, block.column) for block in blocks_of_rows(range(3, 8), 4, size=4)]
        [(3, 4, 0), (7, 1, 0)]
    """
    for row in range(rows.start, rows.stop, size):
        for column in range(0, width, size):
            yield Window(row, column, min(size, rows.stop - row), min(size, width - column))
