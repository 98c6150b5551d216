"""The levels of a streamed image, computed from token maps where they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.models.blocks import tokens_to_map
from xcit_dense.models.xcit import XCiT
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.bands import Bands, level_size
from xcit_dense.streaming.token_map import TokenMap

if TYPE_CHECKING:
    from typing_extensions import Self


def level_shapes(backbone: XCiT, rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Returns the shape (C, H, W) of each level, finest first.

    Args:
        backbone: The XCiT.
        rows: Rows of tokens of the image.
        columns: Columns of tokens of the image.

    Example:
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.streaming.levels import level_shapes
        >>> level_shapes(XCiT("nano_12_p16"), rows=8, columns=5)
        [(128, 32, 20), (128, 16, 10), (128, 8, 5), (128, 4, 2)]
    """
    shapes = []
    for channels, stride in zip(backbone.out_channels, backbone.out_strides):
        height, width = (level_size(tokens, backbone.patch_size, stride) for tokens in (rows, columns))
        shapes.append((channels, height, width))
    return shapes


def source_tokens(start: int, stop: int, tokens: int, patch_size: int, stride: int) -> slice:
    """Returns the tokens along a side that make some positions of a level.

    Args:
        start: The first position.
        stop: The position after the last one.
        tokens: Tokens along the side.
        patch_size: Pixels of a token.
        stride: The stride of the level.

    Example:
        >>> from xcit_dense.streaming.levels import source_tokens
        >>> source_tokens(3, 9, tokens=5, patch_size=16, stride=4)
        slice(0, 3, None)
    """
    first = start * stride // patch_size
    last = -(-stop * stride // patch_size)
    return slice(first, min(last, tokens))


class StreamedLevels:
    """The levels of an image that :func:`xcit_dense.stream` has computed. A context manager that frees the memory.

    Args:
        backbone: The XCiT.
        size: Rows and columns of pixels of the image.
        bands: The rows of tokens of each process.
        maps: For each level, the output of the block that makes the level.

    Attributes:
        height: Rows of pixels of the image.
        width: Columns of pixels of the image.
        shapes: The shape (C, H, W) of each level, finest first.
        strides: The stride of each level in pixels.
        rows: For each level, the rows of this process: all rows, if no other process shares the image.
        bands: The rows of tokens of each process.
    """

    def __init__(self, backbone: XCiT, size: tuple[int, int], bands: Bands, maps: Sequence[TokenMap]) -> None:
        self.height, self.width = size
        self.bands = bands
        self.strides = backbone.out_strides
        self._tokens = rows, columns = maps[0].size
        self._patch_size = backbone.patch_size
        self.shapes = level_shapes(backbone, rows, columns)
        self.rows = [bands.own_rows(height) for _, height, _ in self.shapes]
        self._modules = [backbone.get_submodule(name) for name in backbone.level_modules()]
        self._maps: list[TokenMap] = list(maps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the token maps. Tensors that were read stay valid."""
        self._maps = []

    def fetch(self, wanted: Sequence[Sequence[range]]) -> None:
        """Gets rows of levels from the processes that have them, so that this process can read the rows.

        Every process of the image calls this method, before it reads rows of other processes.

        Args:
            wanted: For each process, the rows of each level that it reads. Its own rows may be a part of them.

        Example::

            with stream(backbone, image, shard=True) as levels:
                levels.fetch(wanted)  # what each process needs for 3 x 3 convolutions, for example
                levels.read(0, window)
        """
        for level, tokens in enumerate(self._maps):
            sides = self._tokens[0], self._patch_size, self.strides[level]
            of_level = [rows[level] for rows in wanted]
            needed = [source_tokens(rows.start, rows.stop, *sides) for rows in of_level]
            tokens.fetch([range(rows.start, rows.stop) for rows in needed])

    def read(self, level: int, window: Window) -> Tensor:
        """Computes a part of a level.

        Args:
            level: The number of the level, from 0 for the finest.
            window: The part, in positions of the level.

        Returns:
            (1, C, window.height, window.width), on the device of the backbone, without gradients.

        Raises:
            UserError: The level does not exist, the window is empty, reaches beyond the level or has rows of another
                process that are not fetched, or the levels are closed.
        """
        self._check(level, window)
        stride, (rows, columns) = self.strides[level], self._tokens
        bottom, right = window.row + window.height, window.column + window.width
        of_rows = source_tokens(window.row, bottom, rows, self._patch_size, stride)
        of_columns = source_tokens(window.column, right, columns, self._patch_size, stride)
        tokens = self._maps[level]
        if of_rows.start < tokens.rows.start or of_rows.stop > tokens.rows.stop:
            raise UserError(
                f"The rows {window.row} to {bottom - 1} of level {level} are not all of this process, which has the "
                f"rows {self.rows[level].start} to {self.rows[level].stop - 1}; call fetch in all processes first."
            )
        part = tokens.read(of_rows, of_columns)  # (rows, columns, C)
        with torch.no_grad():
            y = self._modules[level](tokens_to_map(part.flatten(0, 1)[None], *part.shape[:2]))
        # A token makes several positions of a fine level. The window may begin and end inside of a token.
        y = y[:, :, window.row - of_rows.start * self._patch_size // stride :]
        y = y[:, :, :, window.column - of_columns.start * self._patch_size // stride :]
        return y[:, :, : window.height, : window.width]

    def tiles(self, size: int) -> Iterator[tuple[Window, list[Tensor]]]:
        """Iterates over the image in tiles, or over the band of this process. Tiles do not overlap.

        Args:
            size: Pixels of a tile along each side: a multiple of the largest stride. A tile at the right or lower
                border also contains the pixels that are left, so it may be larger by less than two times the largest
                of stride and patch size.

        Yields:
            The tile in pixels of the image, and the part of each level that the tile makes, (1, C, h, w). A position
            (y, x) of a part begins stride * y rows and stride * x columns after the corner of the tile.

        Raises:
            UserError: ``size`` is not a positive multiple of the largest stride.
        """
        largest = max(*self.strides, self._patch_size)
        if size < 1 or size % largest:
            raise UserError(f"size={size} must be a positive multiple of {largest}; write for example {32 * largest}.")
        _, rows, columns = self.shapes[-1]
        band = self.bands.own
        begin = band.start * self._patch_size
        end = self.height if band.stop == self._tokens[0] else band.stop * self._patch_size
        for top, bottom in _spans(begin, end, size, rows * self.strides[-1]):
            for left, right in _spans(0, self.width, size, columns * self.strides[-1]):
                parts = []
                for level, (stride, (_, rows, columns)) in enumerate(zip(self.strides, self.shapes)):
                    row, height = _positions(top, bottom, stride, rows, self.height)
                    column, width = _positions(left, right, stride, columns, self.width)
                    parts.append(self.read(level, Window(row, column, height, width)))
                yield Window(top, left, bottom - top, right - left), parts

    def _check(self, level: int, window: Window) -> None:
        if not self._maps:
            raise UserError("The levels are closed; read them inside of the with statement.")
        if not 0 <= level < len(self.shapes):
            raise UserError(f"level={level} does not exist; write a number from 0 to {len(self.shapes) - 1}.")
        _, rows, columns = self.shapes[level]
        fits_rows = 0 <= window.row < window.row + window.height <= rows
        fits_columns = 0 <= window.column < window.column + window.width <= columns
        if not fits_rows or not fits_columns:
            raise UserError(
                f"The window of {window} is empty or reaches beyond level {level}, which has {rows} rows and "
                f"{columns} columns; write a window inside of the level."
            )


def _spans(begin: int, end: int, size: int, covered: int) -> Iterator[tuple[int, int]]:
    """Yields the begin and end of each tile along a side. The last tile takes the pixels that are left.

    Args:
        begin: The first pixel.
        end: The pixel after the last one.
        size: Pixels of a tile.
        covered: Pixels that the coarsest level covers. A tile that begins after them would have no position of the
            level.
    """
    starts = range(begin, min(end, covered), size)
    for start in starts:
        yield start, end if start == starts[-1] else start + size


def _positions(start: int, end: int, stride: int, positions: int, pixels: int) -> tuple[int, int]:
    """Returns the first position and the number of positions of a level that a tile makes along a side."""
    first = start // stride
    last = positions if end == pixels else end // stride
    return first, last - first
