"""The neck VT-FPN window by window.

A position reads the tokens of its level, and these are averages over all positions of the complete level. The sums of
the averages are added up window by window, before the first window of the neck is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.mm.streaming.layers import SUMMED_TILE, check_norm, describe, refuse
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.models.vt_fpn import Projector, Tokenizer, TokenTransformer
from xcit_dense.ops.layers import floating_weight, plain_type
from xcit_dense.rasters.window import Window, blocks_of_rows
from xcit_dense.streaming.bands import ONE_BAND, Bands
from xcit_dense.streaming.maps import Apply, Map

_PARTS = (nn.ModuleList, nn.Sequential, Tokenizer, TokenTransformer, Projector, nn.Conv1d, nn.Conv2d, nn.Linear)


def apply_vt_fpn(neck: Any, levels: Sequence[Map], bands: Bands = ONE_BAND) -> list[Map]:
    """Applies a ``VTFPN`` without its further levels.

    Args:
        neck: The neck in evaluation mode, deployed or not.
        levels: The levels of the backbone, as many as the neck's ``in_channels``.
        bands: The processes that share the image. By default, this process has the complete image.

    Returns:
        A map for each level. The tokens are computed when the first map is read.

    Raises:
        NeedsCompleteMapError: A part cannot be computed by windows, or the number of levels is another one. The
            message names the part.
    """
    if len(levels) != len(neck.in_channels):
        refuse("model.neck", f"takes {len(neck.in_channels)} levels and gets {len(levels)}")
    for name, part in neck.named_modules(prefix="model.neck"):
        if part is neck or plain_type(part) in _PARTS:
            continue
        if not isinstance(part, (_BatchNorm, nn.Identity)):  # deploy makes a batch norm an Identity
            refuse(name, describe(part))
        check_norm(name, part)
    laterals = [Apply(x, lateral, neck.out_channels) for x, lateral in zip(levels, neck.laterals)]
    tokens = _Tokens(neck, laterals, bands)
    return [_Projected(x, tokens, index) for index, x in enumerate(laterals)]


class _Tokens:
    """The tokens of all levels after the transformer.

    Args:
        neck: The neck.
        laterals: The maps (1, C, H_i, W_i) after the lateral convolutions.
        bands: The processes that share the image.
    """

    def __init__(self, neck: Any, laterals: Sequence[Map], bands: Bands) -> None:
        self.neck = neck
        self.laterals = laterals
        self.bands = bands

    @cached_property
    def of_levels(self) -> Sequence[Tensor]:
        """The tokens (1, L, C_T) of each level."""
        pairs = zip(self.neck.tokenizers, self.laterals)
        averages = [_average(tokenizer, x, self.bands) for tokenizer, x in pairs]
        tokens = self.neck.transformer(torch.cat(averages, dim=1))  # (1, levels x L, C_T)
        return tokens.chunk(len(averages), dim=1)


def _average(tokenizer: Tokenizer, source: Map, bands: Bands) -> Tensor:
    """Returns what a ``Tokenizer`` computes from a complete map, (1, L, C_T).

    The softmax over all positions is a quotient of two sums. Both sums contain exp(-maximum) of the scores seen so far,
    so that no exp overflows, and are multiplied when a window has a larger score. The sums are float64, so that they do
    not depend on the size of the windows. Each process reads its rows.
    """
    weight = floating_weight(tokenizer.score)
    L, C = tokenizer.score.out_features, tokenizer.score.in_features
    maximum = torch.full((1, 1, L), -torch.inf, dtype=torch.float64, device=weight.device)
    total = torch.zeros((1, L, 1), dtype=torch.float64, device=weight.device)
    weighted = torch.zeros((1, L, C), dtype=torch.float64, device=weight.device)
    for window in blocks_of_rows(bands.own_rows(source.height), source.width, SUMMED_TILE):
        x = map_to_tokens(source.read(window))  # (1, N, C)
        scores = tokenizer.score(x).double()  # (1, N, L)
        larger = maximum.maximum(scores.amax(dim=1, keepdim=True))  # (1, 1, L)
        A = (scores - larger).exp().mT  # (1, L, N)
        scale = (maximum - larger).exp().mT  # (1, L, 1)
        total = total * scale + A.sum(dim=2, keepdim=True)
        weighted = weighted * scale + A @ x.double()
        maximum = larger
    largest = bands.largest(maximum)  # (1, 1, L)
    scale = (maximum - largest).exp().mT  # (1, L, 1)
    T = bands.sum(weighted * scale) / bands.sum(total * scale)  # (1, L, C)
    return tokenizer.expand(T.to(floating_weight(tokenizer.expand).dtype))


class _Projected(Map):
    """An output level: each position of a map with the tokens that it reads.

    Args:
        source: The map (1, C, H, W) after the lateral convolution.
        tokens: The tokens of all levels.
        index: The number of the level.
    """

    def __init__(self, source: Map, tokens: _Tokens, index: int) -> None:
        super().__init__(source.channels, source.height, source.width, [source])
        self.tokens = tokens
        self.index = index

    def needs(self, window: Window) -> Sequence[Window]:
        """Returns the same window."""
        return [window]

    def totals(self) -> Sequence[Map]:
        """Returns the maps whose averages are tokens."""
        return self.tokens.laterals

    def compute(self, window: Window, inputs: Sequence[Tensor]) -> Tensor:
        """Adds to each position the average of tokens that the position asks for."""
        return self.tokens.neck.projectors[self.index](inputs[0], self.tokens.of_levels[self.index])
