"""VT-FPN: a neck in which the levels of a pyramid exchange a few visual tokens instead of feature maps.

A feature pyramid network (FPN) adds each level to the next finer level and smooths the sums with 3 x 3 convolutions.
These convolutions are 86 % of the multiply-adds of the neck. VT-FPN does without them:

    X = lateral(input)                                     1 x 1 convolution to C channels, at each level
    T = A' X,    A = softmax over positions of X Wa        the tokenizer: L tokens of each level
    T = T + softmax over tokens of (T K) (T Q)' T          the transformer: tokens of all levels together
    T = T + relu(T F1) F2
    Y = X + softmax over tokens of (X Wq) (T Wk)' T Wv     the projector: each position reads the tokens of its level

The sign ' is the transpose. X are the N positions of a level.

Source: Wu et al. 2021, "Visual Transformers: Where Do Transformers Really Belong in Vision Models?", sections 3, 4 and
5.3. The authors published neither code nor weights of VT-FPN, and the paper leaves details open. These are inferred:

- Wq, K, Q, F1 and F2 have 16 groups of channels, and a position reads the tokens of only its own level. With these
  choices the neck has the 8.5 GFLOPs (multiply-adds) that the paper states for R50 at 800 x 1216, and the 2.0 GFLOPs
  that the paper states at 473 x 473. With a full Wq the neck has 13.5 GFLOPs at 800 x 1216.
- A linear map takes tokens from C to C_T channels, and Wv takes tokens back. The sizes require both maps.

The last choice is our own: scores of channels are divided by the square root of their number, as in other transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.errors import UserError
from xcit_dense.models.blocks import map_to_tokens, tokens_to_map
from xcit_dense.ops.autocast import without_autocast
from xcit_dense.ops.layers import floating_weight
from xcit_dense.ops.norms import NormConfig, make_norm_layer


class Tokenizer(nn.Module):
    """Averages the positions of a map to a few tokens. Each token has learned weights of the positions.

    Source: filter-based tokenizer, paper section 3.1.

    Args:
        dim: Channels C of the map.
        tokens: Number L of tokens.
        token_channels: Channels C_T of a token.
    """

    def __init__(self, dim: int, tokens: int, token_channels: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, tokens, bias=False)  # a bias would not change the softmax over positions
        self.expand = nn.Linear(dim, token_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps positions (B, N, C) to tokens (B, L, C_T)."""
        scores = self.score(x)  # (B, N, L)
        with without_autocast(x.device):
            # A weight of 1 / N is too small for fp16, and bf16 would round the sum of N products.
            dtype = torch.promote_types(x.dtype, torch.float32)
            A = scores.to(dtype).softmax(dim=1)  # (B, N, L)
            T = A.mT @ x.to(dtype)  # (B, L, C)
            return self.expand(T.to(floating_weight(self.expand).dtype))


class TokenTransformer(nn.Module):
    """One transformer layer over all tokens. The values of the attention are the tokens themselves.

    Source: paper section 3.2.

    Args:
        dim: Channels C_T of a token.
        groups: Groups of channels in each linear map.
    """

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        # The softmax does not change with a bias of the query, and the paper has no biases here.
        self.query = nn.Conv1d(dim, dim, kernel_size=1, groups=groups, bias=False)
        self.key = nn.Conv1d(dim, dim, kernel_size=1, groups=groups, bias=False)
        self.fc1 = nn.Conv1d(dim, dim, kernel_size=1, groups=groups)
        self.fc2 = nn.Conv1d(dim, dim, kernel_size=1, groups=groups)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, L, C_T) to the same shape."""
        T = tokens.mT  # (B, C_T, L): Conv1d has channels first
        scores = self.query(T).mT @ self.key(T) / T.shape[1] ** 0.5  # (B, L, L)
        T = T + T @ scores.softmax(dim=-1).mT
        return (T + self.fc2(F.relu(self.fc1(T)))).mT


class Projector(nn.Module):
    """Adds to each position of a map an average of tokens, which the position weights by a query.

    Source: paper section 3.3.

    Args:
        dim: Channels C of the map.
        token_channels: Channels C_T of a token.
        groups: Groups of channels in the map from a position to its query.
    """

    def __init__(self, dim: int, token_channels: int, groups: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(dim, dim, kernel_size=1, groups=groups)
        self.key = nn.Linear(token_channels, dim, bias=False)  # a bias would not change the softmax over tokens
        self.value = nn.Linear(token_channels, dim)
        # The neck starts close to its lateral convolutions. A start at zero would stop the gradient of the tokens.
        nn.init.normal_(self.value.weight, std=0.01)
        nn.init.zeros_(self.value.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Adds tokens (B, L, C_T) to a map (B, C, H, W); same shape as the map."""
        height, width = x.shape[2:]
        query = map_to_tokens(self.query(x))  # (B, N, C)
        # Keys and values are few: like the tokens, they stay in the dtype of the weights.
        with without_autocast(x.device):
            key, value = self.key(tokens) / x.shape[1] ** 0.5, self.value(tokens)  # (B, L, C)
        scores = query @ key.to(query.dtype).mT  # (B, N, L)
        y = scores.softmax(dim=-1).to(query.dtype) @ value.to(query.dtype)  # (B, N, C)
        return x + tokens_to_map(y, height, width).to(x.dtype)


class VTFPN(nn.Module):
    """VT-FPN, a neck with a sixth of the multiply-adds of a feature pyramid network.

    Source: Wu et al. 2021, section 4 (``VT-FPN``). The grouping of channels and other details are inferred from the
    FLOPs that the paper states; see :mod:`xcit_dense.models.vt_fpn`. No weights were published.

    Args:
        in_channels: Channels of each input level, finest level first.
        out_channels: Channels C of each output level.
        num_outs: Number of output levels. By default as many as inputs. Each further level takes every second position
            of the level before it, as in MMDetection's FPN: 5 for Mask R-CNN on four levels.
        tokens: Tokens L of each level.
        token_channels: Channels C_T of a token.
        groups: Groups of channels in the query map of the projector and in the maps of the transformer. Must divide
            ``out_channels`` and ``token_channels``.
        norm_cfg: Batch norm after each lateral convolution: ``'BN'``, ``'SyncBN'``, an MM-style dictionary, or None for
            a bias instead of a norm. Without a norm, scores grow with the square of the inputs.

    Raises:
        UserError: A number is not positive, ``groups`` does not divide the channels, or ``num_outs`` is smaller than
            the number of inputs.

    Example:
        >>> import torch
        >>> from xcit_dense.models.vt_fpn import VTFPN
        >>> neck = VTFPN(in_channels=[32] * 4, out_channels=64, num_outs=5, token_channels=128)
        >>> levels = [torch.zeros(2, 32, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
        >>> [tuple(level.shape) for level in neck(levels)]
        [(2, 64, 16, 24), (2, 64, 8, 12), (2, 64, 4, 6), (2, 64, 2, 3), (2, 64, 1, 2)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int | None = None,
        tokens: int = 8,
        token_channels: int = 1024,
        groups: int = 16,
        norm_cfg: NormConfig | None = "SyncBN",
    ) -> None:
        super().__init__()
        if isinstance(in_channels, int) or not in_channels:
            raise UserError(
                f"in_channels={in_channels!r} must list the channels of each level; write in_channels=[384] * 4."
            )
        numbers = {"out_channels": out_channels, "tokens": tokens, "token_channels": token_channels, "groups": groups}
        for name, number in [*numbers.items(), *(("in_channels", width) for width in in_channels)]:
            if number < 1:
                raise UserError(f"{name} has {number}, which must be positive; write 1 or more.")
        for name in ("out_channels", "token_channels"):
            if numbers[name] % groups:
                multiple = f"write a multiple of {groups}"
                raise UserError(f"groups={groups} does not divide {name}={numbers[name]}; {multiple}.")
        num_outs = len(in_channels) if num_outs is None else num_outs
        if num_outs < len(in_channels):
            raise UserError(
                f"num_outs={num_outs} is smaller than the number of levels in in_channels={list(in_channels)}; "
                f"write num_outs={len(in_channels)} or more."
            )
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.laterals = nn.ModuleList(_make_lateral(width, out_channels, norm_cfg) for width in in_channels)
        self.tokenizers = nn.ModuleList(Tokenizer(out_channels, tokens, token_channels) for _ in in_channels)
        self.transformer = TokenTransformer(token_channels, groups)
        self.projectors = nn.ModuleList(Projector(out_channels, token_channels, groups) for _ in in_channels)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps the levels of a backbone to the levels of the neck.

        Args:
            levels: Maps (B, in_channels[i], H_i, W_i) of any sizes, as many as ``in_channels``.

        Returns:
            ``num_outs`` maps (B, C, H_i, W_i). Each further level has half the size of the level before, rounded up.

        Raises:
            UserError: The number of levels differs from the number of ``in_channels``.
        """
        if len(levels) != len(self.in_channels):
            raise UserError(
                f"VTFPN got {len(levels)} levels for in_channels={self.in_channels}; list the channels of each level."
            )
        laterals = [lateral(level) for lateral, level in zip(self.laterals, levels)]  # each (B, C, H, W)
        of_levels = [tokenizer(map_to_tokens(x)) for tokenizer, x in zip(self.tokenizers, laterals)]  # each (B, L, C_T)
        with without_autocast(of_levels[0].device):
            tokens = self.transformer(torch.cat(of_levels, dim=1))  # (B, levels x L, C_T)
        of_levels = tokens.chunk(len(levels), dim=1)
        outputs = [projector(x, own) for projector, x, own in zip(self.projectors, laterals, of_levels)]
        while len(outputs) < self.num_outs:
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return tuple(outputs)


def _make_lateral(in_channels: int, out_channels: int, norm_cfg: NormConfig | None) -> nn.Sequential:
    """Makes the 1 x 1 convolution of a level, with a batch norm or a bias."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=norm_cfg is None)
    nn.init.xavier_uniform_(conv.weight)  # as in MMDetection's FPN
    return nn.Sequential(conv) if norm_cfg is None else nn.Sequential(conv, make_norm_layer(norm_cfg)(out_channels))
