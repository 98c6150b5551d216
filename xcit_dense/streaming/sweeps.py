"""The trunk of an XCiT over an image, strip by strip.

The symbols are the symbols of :mod:`xcit_dense.models.xca`. A block needs G of all tokens before it can compute one
token. So the trunk goes over the tokens once for each block: a sweep applies a block to each strip of rows, and sums G
of the next block from the result at the same time. The first sweep computes the stem and the positional encoding, and
sums G of the first block.

What a strip needs around itself:

- The stem needs one row of tokens above the strip, as pixels. Below the strip it needs nothing, because a convolution
  of kernel 3 and stride 2 looks one pixel up and does not look down beyond its stride.
- XCA and MLP compute each token by itself.
- LPI needs two rows above and two rows below, because it has two 3 x 3 convolutions. Zeros are padded only at the
  border of the image.

A sweep may write its result to the memory of its input. XCA is computed two rows ahead of the result, and its last rows
are kept for the next strip. So no row is read after it was written, and XCA and MLP compute each token once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.models.blocks import XCABlock, map_to_tokens
from xcit_dense.models.xcit import XCiT
from xcit_dense.ops.autocast import product_dtype
from xcit_dense.ops.conv import channels_last
from xcit_dense.ops.layers import floating_weight
from xcit_dense.streaming.bands import HALO, Bands
from xcit_dense.streaming.rows import Rows

_FLOATS = 32
"""Numbers that a strip needs at its peak for each token and channel, measured: stem and MLP need the most."""


def choose_strip(memory: int, columns: int, channels: int, itemsize: int) -> int:
    """Chooses the height of a strip.

    Args:
        memory: Bytes that the computation of a strip may take, about.
        columns: Columns of tokens of the image.
        channels: Channels of a token.
        itemsize: Bytes of a number.

    Returns:
        Rows of tokens, at least 1. The memory has to contain the halo too.

    Example:
        >>> from xcit_dense.streaming.sweeps import choose_strip
        >>> choose_strip(2**28, columns=256, channels=128, itemsize=4)
        60
    """
    return max(1, memory // (_FLOATS * columns * channels * itemsize) - 2 * HALO)


def embed(backbone: XCiT, image: Rows, top: int, bottom: int) -> Tensor:
    """Computes some rows of tokens: the stem, and the positional encoding of the complete image.

    Args:
        backbone: An XCiT.
        image: The image.
        top: The first row of tokens.
        bottom: The row of tokens after the last one.

    Returns:
        (1, C, bottom - top, columns), the input of the first block, in channels-last memory.

    Raises:
        UserError: The image gives other pixels than the rows that it was asked for.
    """
    p = backbone.patch_size
    height, width = count_tokens(image, p)
    first = max(top - 1, 0)
    begin, end = first * p, min(bottom * p, image.height)
    pixels = image.read(begin, end)
    expected = (1, backbone.in_channels, end - begin, image.width)
    if tuple(pixels.shape) != expected or not pixels.is_floating_point():
        raise UserError(
            f"The rows {begin} to {end} of the image are a tensor {tuple(pixels.shape)} of {pixels.dtype}; the "
            f"backbone needs normalised floating-point numbers of the shape {expected}."
        )
    pixels = pixels.to(floating_weight(backbone))
    x = backbone.patch_embed(channels_last(pixels))[:, :, top - first :]  # (1, C, bottom - top, columns)
    x = x + backbone.pos_embeder.encode_rows(height, width, slice(top, bottom))
    # As in XCiT.levels_of_tokens: under autocast x has half precision here.
    return channels_last(x.to(floating_weight(backbone.pos_embeder).dtype))


def count_tokens(image: Rows, patch_size: int) -> tuple[int, int]:
    """Returns the rows and columns of tokens of an image. Sizes round up."""
    return -(-image.height // patch_size), -(-image.width // patch_size)


class Covariance:
    """Sums the covariance G of a block's tokens over strips and processes, in fp64.

    Args:
        block: The block.
        bands: The rows of each process.
    """

    def __init__(self, block: XCABlock, bands: Bands) -> None:
        self._block = block
        self._bands = bands
        self._sum: Tensor | None = None
        self._dtype = torch.float32

    def add(self, tokens: Tensor) -> None:
        """Adds tokens (1, N, C), the input of the block."""
        self._dtype = product_dtype(tokens)
        G = self._block.attn.covariance(tokens, self._block.norm1).double()  # (1, C + 1, C + 1)
        self._sum = G if self._sum is None else self._sum.add_(G)

    def token_map(self) -> tuple[Tensor, Tensor]:
        """Returns M and c of the block (:meth:`xcit_dense.models.xca.XCA.token_map`), from all tokens of the image."""
        assert self._sum is not None
        return self._block.attn.token_map(self._bands.sum(self._sum), self._dtype)


def sweep_stem(
    backbone: XCiT,
    image: Rows,
    target: Tensor,
    first: int,
    strip: int,
    covariance: Covariance,
    count: Callable[[], None],
) -> None:
    """Computes the input of the first block and its covariance.

    Args:
        backbone: An XCiT.
        image: The image.
        target: (h, w, C), gets the tokens.
        first: The row of tokens of the image that is the first row of ``target``.
        strip: Rows of tokens of a strip.
        covariance: Gets the tokens.
        count: Is called after each strip.
    """
    for top, bottom in _strips(target.shape[0], strip):
        tokens = map_to_tokens(embed(backbone, image, first + top, first + bottom))  # (1, rows * w, C)
        covariance.add(tokens)
        target[top:bottom] = tokens.unflatten(1, (bottom - top, -1))[0]
        count()


def sweep_block(
    block: XCABlock,
    token_map: tuple[Tensor, Tensor],
    source: Tensor,
    neighbours: tuple[Tensor, Tensor],
    target: Tensor,
    strip: int,
    following: Covariance | None,
    count: Callable[[], None],
) -> None:
    """Applies a block to the tokens of an image, or of a band of it.

    Args:
        block: The block.
        token_map: M and c of the block, from the covariance of all tokens.
        source: (h, w, C), the input of the block.
        neighbours: The rows of the input above and below ``source`` (:meth:`Bands.neighbours`).
        target: (h, w, C), gets the output. It may be ``source``.
        strip: Rows of tokens of a strip.
        following: The covariance of the next block, gets the output. None for the last block.
        count: Is called after each strip.
    """
    height, width, _ = source.shape
    above, below = neighbours
    M, _ = token_map
    # Rows with XCA: the halo above the strip, the strip, and the halo below the strip.
    attended = above.flatten(0, 1)[None]  # (1, rows * w, C)
    if len(above):
        attended = block.add_attention(attended, token_map)
    first = -len(above)  # the first of these rows
    for top, bottom in _strips(height, strip):
        ahead = min(bottom + HALO, height + len(below))
        done = first + attended.shape[1] // width
        if done < ahead:
            tokens = source[done:ahead].to(M.device)
            if ahead > height:
                tokens = torch.cat((tokens, below[max(done - height, 0) : ahead - height]))
            tokens = tokens.flatten(0, 1)[None]  # (1, rows * w, C)
            attended = torch.cat((attended, block.add_attention(tokens, token_map)), dim=1)
        mixed = block.add_neighbours(attended, ahead - first, width)
        mixed = mixed[:, (top - first) * width : (bottom - first) * width]  # (1, (bottom - top) * w, C)
        tokens = block.add_mlp(mixed, bottom - top, width)
        if following is not None:
            following.add(tokens)
        target[top:bottom] = tokens.unflatten(1, (bottom - top, width))[0]
        kept = max(bottom - HALO, first)
        attended, first = attended[:, (kept - first) * width :], kept
        count()


def _strips(height: int, strip: int) -> Iterator[tuple[int, int]]:
    """Yields the first row and the row after the last one of each strip."""
    for top in range(0, height, strip):
        yield top, min(top + strip, height)
