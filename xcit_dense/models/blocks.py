"""What XCiT is built of: convolutional stem, positional encoding, LPI, MLP and the XCA block.

All of them work on maps (B, C, H, W) in channels-last memory. That is the memory of tokens (B, N, C), N = H W in row
order, which the attention reads: :func:`tokens_to_map` and :func:`map_to_tokens` go from one to the other without a
copy.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import pairwise

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.models.xca import XCA
from xcit_dense.ops.autocast import product_dtype
from xcit_dense.ops.norms import NormLayer
from xcit_dense.ops.recompute import run


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Views tokens (B, H W, C) as a map (B, C, H, W) in channels-last memory."""
    return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """Reads a map (B, C, H, W) as tokens (B, H W, C); a view where the map is in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class ConvPatchEmbed(nn.Module):
    """Convolutional stem: 3 x 3 convolutions of stride 2 with batch norm, GELU in between.

    Odd sizes round up at each step: an image of H x W pixels becomes ceil(H / p) x ceil(W / p) tokens. Source: class
    ``ConvPatchEmbed`` of the original ``xcit.py``.

    Args:
        in_channels: Channels of the image.
        dim: Channels of a token.
        patch_size: 8 or 16.
        norm_layer: Makes the batch norms.

    Raises:
        UserError: ``dim`` is no multiple of half the patch size.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, norm_layer: NormLayer) -> None:
        super().__init__()
        if dim % (patch_size // 2):
            raise UserError(
                f"embed_dim={dim} must be a multiple of {patch_size // 2} for a stem of stride {patch_size}."
            )
        steps = int(math.log2(patch_size))
        widths = [in_channels, *(dim >> step for step in reversed(range(steps)))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(conv, norm_layer(after)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Turns images (B, in_channels, H, W) into a map of tokens (B, C, ceil(H / p), ceil(W / p))."""
        return run(self.proj, images)


class PositionalEncodingFourier(nn.Module):
    """Sines and cosines of the position, y before x, projected to the width of a token.

    Coordinates run from 1 to n, divided by (n + 1e-6) and multiplied by 2 pi, so that the encoding stretches with the
    image. Source: class ``PositionalEncodingFourier`` of the original ``xcit.py``.

    Args:
        dim: Channels C of a token.
        hidden_dim: Waves an axis, sines and cosines together; even.
        temperature: Base T of the frequencies T ** (-2 i / hidden_dim), i = 0 .. hidden_dim / 2 - 1.
    """

    def __init__(self, dim: int, hidden_dim: int = 32, temperature: float = 10_000.0) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * hidden_dim, dim, kernel_size=1)
        self.hidden_dim = hidden_dim
        self.temperature = temperature
        self.keep = 0  # encodings of so many sizes, where no weight changes any more: see deploy.py
        self._kept: dict[Hashable, Tensor] = {}

    def forward(self, height: int, width: int) -> Tensor:
        """The encoding of ``height`` x ``width`` tokens, (1, C, height, width)."""
        if not self.keep or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._encode(height, width)
        weight = self.token_projection.weight
        key = height, width, weight.device, product_dtype(weight)
        if key not in self._kept:
            while len(self._kept) >= self.keep:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._encode(height, width)
        return self._kept[key]

    def _encode(self, height: int, width: int) -> Tensor:
        y = self._waves(height)[:, :, None].expand(-1, -1, width)
        x = self._waves(width)[:, None, :].expand(-1, height, -1)
        waves = torch.cat((y, x))[None].contiguous(memory_format=torch.channels_last)
        return self.token_projection(waves)

    def _waves(self, n: int) -> Tensor:
        """Waves at n positions along an axis, (hidden_dim, n), in at least fp32."""
        weight = self.token_projection.weight
        # Angles reach 2 pi and their sines feed every token: half precision is not enough for them.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        position = torch.arange(1, n + 1, dtype=dtype, device=weight.device)
        octave = torch.arange(self.hidden_dim // 2, dtype=dtype, device=weight.device)
        frequency = self.temperature ** (-2 * octave / self.hidden_dim)
        angle = frequency[:, None] * (position * (2 * math.pi / (n + 1e-6)))
        return torch.stack((angle.sin(), angle.cos()), dim=1).flatten(0, 1).to(weight.dtype)


class LPI(nn.Module):
    """Local patch interaction: two depth-wise 3 x 3 convolutions, GELU and batch norm between them.

    It lets neighbouring tokens talk, which XCA itself does not. Source: paper section 3.3; class ``LPI`` of the
    original ``xcit.py``.

    Args:
        dim: Channels C.
        norm_layer: Makes the batch norm.
    """

    def __init__(self, dim: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.act = nn.GELU()
        self.bn = norm_layer(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor, norm: nn.Module | None = None, gain: Tensor | None = None) -> Tensor:
        """Mixes each position of a map (B, C, H, W) with its neighbours; same shape.

        ``norm`` goes before, a ``gain`` (C,) is multiplied onto the result; here, because they cost less memory here.
        """
        return run((norm or nn.Identity(), self.conv1, self.act, self.bn, self.conv2), x, gain)


class MLP(nn.Module):
    """Two linear layers at each position, with GELU between them. Source: timm's ``Mlp``, whose names it keeps.

    Args:
        dim: Channels C, in and out.
        hidden_dim: Channels between the two.
        drop: Dropout probability after each of the two, in [0, 1].
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, norm: nn.Module | None = None, gain: Tensor | None = None) -> Tensor:
        """Maps each position of (B, C, H, W) by itself; same shape. ``norm`` and ``gain`` as in :class:`LPI`."""
        return self.drop(run((norm or nn.Identity(), self.fc1, self.act, self.drop, self.fc2), x, gain))


class XCABlock(nn.Module):
    """One layer of XCiT: XCA, LPI and MLP, each normed before, scaled by gamma and added to its input.

    Source: paper figure 1; class ``XCABlock`` of the original ``xcit.py``. The published names number the norms and
    gains 1 (XCA), 3 (LPI) and 2 (MLP).

    Args:
        dim: Channels C.
        num_heads: Heads of the attention.
        mlp_ratio: Hidden width of the MLP over C.
        qkv_bias: Whether the projection to Q, K and V has a bias.
        drop: Dropout probability after the MLP's and the attention's projections.
        attn_drop: Dropout probability on the attention matrix.
        drop_path: Probability of skipping a branch for a sample (stochastic depth).
        eta: First value of the gains gamma.
        norm_layer: Makes the batch norm of the LPI.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        eta: float,
        norm_layer: NormLayer,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = XCA(dim, num_heads, qkv_bias, attn_drop, drop)
        self.norm3 = LayerNorm2d(dim, eps=1e-6)
        self.local_mp = LPI(dim, norm_layer)
        self.norm2 = LayerNorm2d(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)
        self.gamma1 = nn.Parameter(eta * torch.ones(dim))
        self.gamma3 = nn.Parameter(eta * torch.ones(dim))
        self.gamma2 = nn.Parameter(eta * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        attended = self.attn(map_to_tokens(x), norm=self.norm1, gain=self.gamma1)
        x = _add(x, self.drop_path(tokens_to_map(attended, *x.shape[2:])))
        x = _add(x, self.drop_path(self.local_mp(x, self.norm3, self.gamma3)))
        return _add(x, self.drop_path(self.mlp(x, self.norm2, self.gamma2)))


def _add(x: Tensor, branch: Tensor) -> Tensor:
    """Their sum, in the dtype of ``x``."""
    if branch.dtype == x.dtype:
        return x + branch
    # PyTorch adds two dtypes slowly. What is made here may be overwritten; what a hook may have seen may not.
    return branch.to(x.dtype).add_(x)
