"""The parts of CoaT: position encodings, factorized attention, serial blocks and parallel blocks.

All parts take and return tokens (B, 1 + H W, C): the class token, then the positions of a map in row order. Each level
of CoaT has one class token, one convolutional position encoding and one convolutional relative position encoding. The
blocks of a level share the two encodings. The network registers the encodings once and passes them to each block, so
each tensor of the network has one name.

Source: Xu et al. 2021; ``src/models/coat.py`` of the original code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.models.blocks import MLP, map_to_tokens, tokens_to_map
from xcit_dense.ops.autocast import without_autocast
from xcit_dense.ops.exporting import is_exporting
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.recompute import PerPosition, run

Size = tuple[int, int]
"""Rows and columns of a map."""
WINDOWS = {3: 2, 5: 3, 7: 3}
"""Heads for each window of the relative position encoding: the first two heads see 3 x 3 positions."""
NUM_HEADS = sum(WINDOWS.values())
"""Heads of each attention."""
_PIECE = 4096
"""Tokens that are summed in a row. Few channels and 60,000 tokens in one sum would lose three digits of fp32."""
PARALLEL_LEVELS = (2, 3, 4)
"""Levels that take part in the parallel blocks, counted from 1 as in the names of the weights."""


class PatchEmbed(nn.Module):
    """Joins patches of a map to tokens: a convolution whose kernel equals its stride, and a layer norm.

    Sizes are rounded down, as in the original code. A side that is shorter than a patch is padded with zeros to one
    patch, so that each map has at least one position.

    Args:
        in_channels: Channels of the map.
        dim: Channels C of a token.
        patch_size: Positions of a patch along each side.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = LayerNorm2d(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Turns a map (B, in_channels, H, W) into a map (B, C, max(1, H // p), max(1, W // p)) of patch size p."""
        height, width = x.shape[2:]
        missing_rows, missing_columns = max(0, self.patch_size - height), max(0, self.patch_size - width)
        if missing_rows or missing_columns:
            x = F.pad(x, (0, missing_columns, 0, missing_rows))
        return run([self.proj, self.norm], x)


class PositionEncoding(nn.Module):
    """Convolutional position encoding: a depth-wise 3 x 3 convolution of the map, added to the map.

    The class token does not change. Source: paper section 3.3; class ``ConvPosEnc`` of the original code.

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Encodes the positions of tokens (B, 1 + H W, C) of a map of ``size`` H x W; same shape."""
        token, positions = x[:, :1], x[:, 1:]  # (B, 1, C), (B, H W, C)
        encoding = map_to_tokens(self.proj(tokens_to_map(positions, *size)))  # (B, H W, C)
        return torch.cat((token, positions + encoding), dim=1)


class RelativePositionEncoding(nn.Module):
    """Convolutional relative position encoding: depth-wise convolutions of V, whose window grows with the head.

    Source: paper section 3.2, equation 6; class ``ConvRelPosEnc`` of the original code.

    Args:
        dim: Channels C of all heads; a multiple of the number of heads.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = {window: heads * dim // NUM_HEADS for window, heads in WINDOWS.items()}
        self.conv_list = nn.ModuleList(
            nn.Conv2d(width, width, window, padding=window // 2, groups=width) for window, width in widths.items()
        )
        self._widths = [*widths.values()]

    def forward(self, v: Tensor) -> Tensor:
        """Convolves the values of a map (B, C, H, W); same shape."""
        parts = v.split(self._widths, dim=1)  # the channels of the heads of each window
        return torch.cat([conv(part) for conv, part in zip(self.conv_list, parts)], dim=1)


class FactorizedAttention(nn.Module):
    """Factorized attention with convolutional relative position encoding.

    Of h heads of d = C / h channels, with the softmax over the tokens:

        Q (softmax(K)' V) / sqrt(d) + Q * conv(V)

    The d x d matrix softmax(K)' V does not grow with the image, so the cost is linear in the tokens. Source: paper
    section 3.2; class ``FactorAtt_ConvRelPosEnc`` of the original code.

    Args:
        dim: Channels C; a multiple of the number of heads.
        qkv_bias: Whether the projection to Q, K and V has a bias.
        attn_drop: Dropout probability of softmax(K), in [0, 1]. The original code does not use its argument.
        proj_drop: Dropout probability of the output, in [0, 1].
    """

    def __init__(self, dim: int, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.scale = (dim // NUM_HEADS) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, size: Size, encoding: nn.Module, norm: nn.Module | None = None) -> Tensor:
        """Computes the attention of tokens.

        Args:
            x: Tokens (B, 1 + H W, C).
            size: Rows H and columns W.
            encoding: The :class:`RelativePositionEncoding` of the level.
            norm: A norm layer that is applied to ``x`` first. In here the norm needs less memory than outside.

        Returns:
            Tokens (B, 1 + H W, C).
        """
        qkv = _per_token([norm, PerPosition(self.qkv)], x)  # (B, N, 3 C), N = 1 + H W
        q, k, v = qkv.chunk(3, dim=-1)  # each (B, N, C)
        context = self._context(k, v).to(q.dtype)  # (B, h, d, d)
        y = _split_heads(q) @ context  # (B, h, N, d)
        y = y.transpose(1, 2).flatten(2)  # (B, h, N, d) -> (B, N, h, d) -> (B, N, C)
        local = map_to_tokens(encoding(tokens_to_map(v[:, 1:], *size)))  # (B, H W, C)
        # The class token has no position, so it has no relative position encoding.
        y = torch.cat((y[:, :1], torch.addcmul(y[:, 1:], q[:, 1:], local.to(q.dtype))), dim=1)
        return self.proj_drop(_per_token([PerPosition(self.proj)], y))

    def _context(self, k: Tensor, v: Tensor) -> Tensor:
        """Computes softmax(K)' V / sqrt(d), (B, h, d, d), of keys and values (B, N, C), in at least fp32.

        One of many tokens has a weight that half precision rounds to few digits or to zero.
        """
        dtype = torch.promote_types(k.dtype, torch.float32)
        with without_autocast(k.device):
            weights = self.attn_drop(k.to(dtype).softmax(dim=1))  # (B, N, C): each channel sums to 1 over the tokens
            weights, v = _split_heads(weights), _split_heads(v.to(dtype))  # (B, h, N, d)
            if is_exporting():
                return self.scale * (weights.transpose(2, 3) @ v)  # the number of pieces depends on the size
            pieces = zip(weights.split(_PIECE, dim=2), v.split(_PIECE, dim=2))
            return self.scale * sum(piece.mT @ values for piece, values in pieces)  # each (B, h, d, d)


class SerialBlock(nn.Module):
    """One block of one level: position encoding, attention and MLP, one after the other.

    Source: paper figure 3; class ``SerialBlock`` of the original code.

    Args:
        dim: Channels C.
        mlp_ratio: Hidden channels of the MLP, divided by C.
        qkv_bias: Whether the projection to Q, K and V has a bias.
        drop: Dropout probability after the projections of the MLP and of the attention.
        attn_drop: Dropout probability of softmax(K).
        drop_path: Probability of skipping a branch for a sample (stochastic depth).
    """

    def __init__(
        self, dim: int, mlp_ratio: float, qkv_bias: bool, drop: float, attn_drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(dim, eps=1e-6)
        self.factoratt_crpe = FactorizedAttention(dim, qkv_bias, attn_drop, drop)
        self.norm2 = LayerNorm2d(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: Size, cpe: nn.Module, crpe: nn.Module) -> Tensor:
        """Maps tokens (B, 1 + H W, C) of a map of ``size`` H x W to the same shape.

        Args:
            x: Tokens.
            size: Rows H and columns W.
            cpe: The :class:`PositionEncoding` of the level.
            crpe: The :class:`RelativePositionEncoding` of the level.
        """
        x = cpe(x, size)
        x = x + self.drop_path(_attend(self.factoratt_crpe, self.norm1, x, size, crpe))
        return x + self.drop_path(_transform(self.mlp, self.norm2, x))


class ParallelBlock(nn.Module):
    """One block of levels 2 to 4, which exchange what their attentions find.

    Each level adds the resized outputs of the other two attentions to its own. One MLP serves the three levels; each
    level has norms of its own. Source: paper figure 4 (right) and section 4.2; class ``ParallelBlock`` of the original
    code.

    Args:
        dim: Channels C of each of the three levels.
        mlp_ratio: Hidden channels of the MLP, divided by C.
        qkv_bias: Whether the projections to Q, K and V have a bias.
        drop: Dropout probability after the projections of the MLP and of the attentions.
        attn_drop: Dropout probability of softmax(K).
        drop_path: Probability of skipping a branch of a level for a sample (stochastic depth).
        outputs: The levels that the block returns, out of 2, 3 and 4. The block reads all three. The last block of a
            backbone does not need layers for the levels that no head reads.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        outputs: Sequence[int] = PARALLEL_LEVELS,
    ) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        for level in PARALLEL_LEVELS:
            self.add_module(f"norm1{level}", LayerNorm2d(dim, eps=1e-6))
            self.add_module(f"factoratt_crpe{level}", FactorizedAttention(dim, qkv_bias, attn_drop, drop))
            if level in self.outputs:
                self.add_module(f"norm2{level}", LayerNorm2d(dim, eps=1e-6))
        self.mlp2 = MLP(dim, int(dim * mlp_ratio), drop)  # the published names call it mlp2, mlp3 and mlp4
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        levels: Sequence[Tensor],
        sizes: Sequence[Size],
        cpes: Sequence[nn.Module],
        crpes: Sequence[nn.Module],
    ) -> list[Tensor]:
        """Maps the tokens of levels 2 to 4 to the same shapes, of the levels in ``outputs``.

        Args:
            levels: Tokens (B, 1 + H W, C) of each level.
            sizes: Rows H and columns W of each level.
            cpes: The :class:`PositionEncoding` of each level.
            crpes: The :class:`RelativePositionEncoding` of each level.
        """
        levels = [cpe(x, size) for cpe, x, size in zip(cpes, levels, sizes)]
        attended = [
            _attend(self.get_submodule(f"factoratt_crpe{number}"), self.get_submodule(f"norm1{number}"), x, size, crpe)
            for number, x, size, crpe in zip(PARALLEL_LEVELS, levels, sizes, crpes)
        ]
        levels = [x + self.drop_path(y) for x, y in zip(levels, _exchange(attended, sizes))]
        return [
            x + self.drop_path(_transform(self.mlp2, self.get_submodule(f"norm2{number}"), x))
            for number, x in zip(PARALLEL_LEVELS, levels)
            if number in self.outputs
        ]


def _exchange(levels: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    """Adds to each level the resized other levels. Tokens (B, 1 + H W, C) of each level; same shapes.

    Maps are resized to the size of the other level, which a factor of two does not give for odd sizes.
    """
    maps = [tokens_to_map(x[:, 1:], *size) for x, size in zip(levels, sizes)]  # each (B, C, H, W)
    token = torch.stack([x[:, :1] for x in levels]).sum(dim=0)  # (B, 1, C): a class token does not have a size
    mixed = []
    for own, size in zip(maps, sizes):
        others = [_resize(other, size) for other in maps if other is not own]
        mixed.append(torch.cat((token, map_to_tokens(sum(others, own))), dim=1))
    return mixed


def _resize(x: Tensor, size: Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _attend(attention: nn.Module, norm: nn.Module, x: Tensor, size: Size, crpe: nn.Module) -> Tensor:
    """Computes attention(norm(x)). A plain attention applies the norm itself, which needs less memory."""
    if plain_type(attention) is FactorizedAttention:
        return attention(x, size, crpe, norm=norm)
    return attention(_per_token([norm], x), size, crpe)


def _transform(mlp: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """Computes mlp(norm(x)). A plain MLP applies the norm itself, which needs less memory."""
    x = _as_map(x)
    y = mlp(x, norm=norm) if plain_type(mlp) is MLP else mlp(norm(x))  # (B, C, N, 1)
    return map_to_tokens(y)


def _per_token(layers: Sequence[nn.Module | PerPosition | None], x: Tensor) -> Tensor:
    """Applies layers to each token: (B, N, C) -> (B, N, C')."""
    return map_to_tokens(run(layers, _as_map(x)))


def _as_map(tokens: Tensor) -> Tensor:
    """Views tokens (B, N, C) as a map (B, C, N, 1) of one column."""
    return tokens[:, :, None].permute(0, 3, 1, 2)  # (B, N, C) -> (B, N, 1, C) -> (B, C, N, 1)


def _split_heads(x: Tensor) -> Tensor:
    """Views tokens (B, N, C) as heads (B, h, N, d)."""
    return x.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)  # (B, N, C) -> (B, N, h, d) -> (B, h, N, d)
