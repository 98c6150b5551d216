"""Convolutions of 3 x 3 kernels with a quarter of the multiplications, on the CPU.

The output is computed in tiles of 4 x 4 positions. A tile depends on 6 x 6 positions x of the input. With the matrices
A (6, 4), B (6, 6) and G (6, 3), a tile Y of the convolution with a kernel w is

    Y = A' ((G w G') * (B' x B)) A

where * multiplies entries. The channels are mixed between the transforms, by one matrix product for each of the 36
entries: 36 multiplications in place of 144. The matrices belong to interpolation at the points 0, 3/4, -3/4, 3/2, -3/2
and infinity. These points were found by trials: in fp32 the result is 1e-6 standard deviations away from exact values,
about as far as the result of oneDNN's convolution.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xcit_dense.ops.transforms import is_traced

_POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
_TILE = 4
# Below these numbers, the transforms take longer than the multiplications that they save.
FEWEST_CHANNELS = 128
_FEWEST_POSITIONS = 2048
# The transformed tiles of a strip should fit into the cache of the CPU.
_TILES_OF_STRIP = 160


def _powers(columns: int) -> Tensor:
    """Returns the powers 0 .. columns - 1 of each point, (6, columns). The last row belongs to infinity."""
    powers = np.zeros((len(_POINTS) + 1, columns))
    powers[:-1] = np.vander(_POINTS, columns, increasing=True)
    powers[-1, -1] = 1
    return torch.from_numpy(powers)


A = _powers(_TILE).float()
B = torch.linalg.inv(_powers(_TILE + 2)).float()
G = _powers(3)
_KERNEL = torch.kron(G, G)  # (36, 9), transforms the rows and columns of a kernel at once


def is_faster(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Returns whether :func:`convolve` can compute a convolution, and is faster than PyTorch.

    Args:
        x: Input (B, C, H, W).
        weight: Weight (C', C, kh, kw).
        stride: Vertical and horizontal stride.
        padding: Vertical and horizontal padding.
        dtype: Dtype in which the convolution is computed.
    """
    if x.device.type != "cpu" or dtype != torch.float32 or is_traced():
        return False
    if (*weight.shape[2:], *stride, *padding) != (3, 3, 1, 1, 1, 1) or weight.shape[1] != x.shape[1]:
        return False
    positions = x.shape[0] * x.shape[2] * x.shape[3]
    return min(weight.shape[:2]) >= FEWEST_CHANNELS and positions >= _FEWEST_POSITIONS


def transform_kernel(weight: Tensor) -> Tensor:
    """Returns G w G' for all channels of a weight (C', C, 3, 3), as (6, 6, C, C')."""
    rows = weight.permute(2, 3, 1, 0).flatten(2).flatten(0, 1)  # (C', C, 3, 3) -> (9, C C')
    return (_KERNEL.to(rows) @ rows).view(6, 6, *weight.shape[1::-1])


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolves a map with zero padding of one position. Gradients are not recorded.

    Args:
        x: Map (B, C, H, W) in fp32.
        kernel: (6, 6, C, C'), by :func:`transform_kernel`.
        bias: (C',), or None.

    Returns:
        Map (B, C', H, W) in channels-last memory.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from xcit_dense.ops.winograd import convolve, transform_kernel
        >>> x, weight = torch.rand(2, 8, 5, 6), torch.rand(4, 8, 3, 3)
        >>> torch.allclose(convolve(x, transform_kernel(weight)), F.conv2d(x, weight, padding=1), atol=1e-4)
        True
    """
    x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    channels = kernel.shape[3]
    # Not a view: an activation in place may follow, and autograd allows none on views that are made in a function.
    y = torch.empty((len(x), channels, *x.shape[1:3]), dtype=x.dtype, memory_format=torch.channels_last)
    out = y.permute(0, 2, 3, 1)  # (B, H, W, C')
    tiles = _Tiles(x, B.mT)
    largest = tiles.strip_size * channels
    products, halves, results = x.new_empty(36 * largest), x.new_empty(24 * largest), x.new_empty(16 * largest)
    for strip in tiles.strips():
        transformed = tiles.transform(strip)  # (6, 6, tiles, C)
        size = transformed.shape[2] * channels
        product = products[: 36 * size].view(6, 6, -1, channels)
        for index in range(6):  # one call for all rows would copy the tiles
            torch.bmm(transformed[index], kernel[index], out=product[index])
        half = halves[: 24 * size].view(4, 6, size)
        torch.mm(A.mT, product.view(6, 6 * size), out=half.view(4, 6 * size))
        result = results[: 16 * size].view(4, 4, size)
        torch.bmm(A.mT.expand(4, 4, 6), half, out=result)
        _write(result, bias, out[strip.images, 4 * strip.rows.start : 4 * strip.rows.stop])
    return y


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Computes the gradient of the weight of a convolution with zero padding of one position.

    Args:
        grad: Gradient of the output, (B, C', H, W) in fp32.
        x: Input (B, C, H, W) in fp32.

    Returns:
        (C', C, 3, 3).
    """
    x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # (B, H, W, C) and (B, H, W, C')
    tiles, grad_tiles = _Tiles(x, B.mT), _Tiles(grad, A)
    total = x.new_zeros(6, 6, x.shape[3], grad.shape[3])
    for strip in tiles.strips():
        transformed, grad_transformed = tiles.transform(strip), grad_tiles.transform(strip)
        for index in range(6):
            total[index].baddbmm_(transformed[index].mT, grad_transformed[index])
    weight = _KERNEL.mT.to(total) @ total.view(36, -1)  # (9, C C')
    return weight.view(3, 3, *total.shape[2:]).permute(3, 2, 0, 1)  # (3, 3, C, C') -> (C', C, 3, 3)


@dataclass(frozen=True)
class _Strip:
    """Rows of tiles of some images: all rows of several small images, or some rows of one image."""

    images: slice
    rows: slice


class _Tiles:
    """The transformed tiles of a map, strip by strip.

    The tiles of a row lie four positions apart in memory, and so do the last tile of a row and the first tile of the
    next row. Then all tiles of a strip can be transformed by one call.

    Args:
        x: Map (B, H, W, C), in any memory format.
        matrix: (6, k). Transforms rows and columns of tiles of k x k positions. For k = 6, tiles overlap by two
            positions, and the first tile begins one position outside of the map.
    """

    def __init__(self, x: Tensor, matrix: Tensor) -> None:
        self.x, self.matrix = x, matrix
        images, height, width, channels = x.shape
        self.rows = -(-height // _TILE)
        # A row has at least one column of zeros after its end. The next row needs it as its left padding.
        self.columns = width // _TILE + 1
        self.images_of_strip = max(1, min(images, _TILES_OF_STRIP // (self.rows * self.columns)))
        self.rows_of_strip = max(1, min(self.rows, _TILES_OF_STRIP // self.columns))
        self.strip_size = self.images_of_strip * self.rows_of_strip * self.columns  # tiles
        self.margin = matrix.shape[1] // 2 - 2
        height, width = _TILE * self.rows_of_strip + 2 * self.margin, _TILE * self.columns
        self.padded = x.new_zeros(self.images_of_strip, height, width, channels)
        # The last tile sees two positions behind its row.
        self.by_rows = x.new_zeros((6 * self.strip_size * _TILE + 2) * channels)
        self.tiles = x.new_empty(36 * self.strip_size * channels)

    def strips(self) -> Iterator[_Strip]:
        """Yields the strips of the map."""
        for image in range(0, len(self.x), self.images_of_strip):
            images = slice(image, min(len(self.x), image + self.images_of_strip))
            for row in range(0, self.rows, self.rows_of_strip):
                yield _Strip(images, slice(row, min(self.rows, row + self.rows_of_strip)))

    def transform(self, strip: _Strip) -> Tensor:
        """Returns the transformed tiles of a strip, (6, 6, tiles, C). The next call overwrites them."""
        size, channels = self.matrix.shape[1], self.x.shape[3]
        padded = self._pad(strip)
        images, rows, width = len(padded), strip.rows.stop - strip.rows.start, padded.shape[2]
        by_rows = self.by_rows[: 6 * images * rows * width * channels].view(6, images * rows, width * channels)
        for index in range(images * rows):
            top = _TILE * (index % rows)
            tile_row = padded[index // rows, top : top + size].view(size, width * channels)
            torch.mm(self.matrix, tile_row, out=by_rows[:, index])
        count = 6 * images * rows * self.columns
        columns = self.by_rows.as_strided((count, size, channels), (_TILE * channels, channels, 1))
        tiles = self.tiles[: count * 6 * channels].view(count, 6, channels)
        torch.bmm(self.matrix.expand(count, 6, size), columns, out=tiles)
        return tiles.view(6, -1, 6, channels).transpose(1, 2)  # (6, tiles, 6, C) -> (6, 6, tiles, C)

    def _pad(self, strip: _Strip) -> Tensor:
        """Returns the positions that the tiles of a strip see, with zeros outside of the map."""
        height, width = self.x.shape[1:3]
        top, bottom = _TILE * strip.rows.start - self.margin, _TILE * strip.rows.stop + self.margin
        first, last = max(0, top), min(height, bottom)
        images = self.x[strip.images]
        padded = self.padded[: len(images), : bottom - top]
        padded[:, : first - top].zero_()
        padded[:, last - top :].zero_()
        padded[:, first - top : last - top, self.margin : self.margin + width] = images[:, first:last]
        return padded


def _write(tiles: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Writes tiles (4, 4, tiles C') to their positions in ``out`` (images, rows, W, C'), and adds a bias."""
    images, height, width, channels = out.shape
    rows, columns = -(-height // _TILE), width // _TILE + 1
    # (4, 4, images, rows, columns, C') -> (images, rows, 4, columns, 4, C')
    tiles = tiles.view(_TILE, _TILE, images, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
    if bias is None:
        bias = tiles.new_zeros(())
    if height % _TILE == width % _TILE == 0:
        torch.add(tiles[:, :, :, :-1], bias, out=out.view(images, rows, _TILE, columns - 1, _TILE, channels))
    else:
        # (images, rows 4, columns 4, C'), with positions outside of the map
        torch.add(tiles.flatten(3, 4).flatten(1, 2)[:, :height, :width], bias, out=out)
