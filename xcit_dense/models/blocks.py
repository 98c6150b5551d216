"""The parts of XCiT: convolutional stem, positional encoding, LPI, MLP and the XCA block.

All parts take and return maps (B, C, H, W) in channels-last memory. The same memory, read as tokens (B, N, C) with N =
H W in row order, is the input of the attention. :func:`tokens_to_map` and :func:`map_to_tokens` convert one to the
other without a copy.
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
from xcit_dense.ops.conv import channels_last
from xcit_dense.ops.devices import is_gpu
from xcit_dense.ops.layers import floating_weight, plain_type
from xcit_dense.ops.norms import NormLayer
from xcit_dense.ops.recompute import PerPosition, run
from xcit_dense.ops.transforms import is_transformed


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Views tokens (B, H W, C) as a map (B, C, H, W) in channels-last memory.

    Example:
        >>> import torch
        >>> from xcit_dense.models.blocks import tokens_to_map
        >>> tokens_to_map(torch.zeros(1, 6, 16), height=2, width=3).shape
        torch.Size([1, 16, 2, 3])
    """
    # The TorchScript exporter of ONNX replaces the sizes of unflatten by constants, but not the sizes of reshape.
    batch, _, channels = tokens.shape
    return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)  # (B, H W, C) -> (B, C, H, W)


def map_to_tokens(x: Tensor) -> Tensor:
    """Reads a map (B, C, H, W) as tokens (B, H W, C). The result is a view if the map has channels-last memory.

    Example:
        >>> import torch
        >>> from xcit_dense.models.blocks import map_to_tokens
        >>> map_to_tokens(torch.zeros(1, 16, 2, 3)).shape
        torch.Size([1, 6, 16])
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, C, H, W) -> (B, H, W, C) -> (B, H W, C)


def init_linear(module: nn.Module) -> None:
    """Initialises a linear layer as the original code does. Other modules do not change.

    Args:
        module: A module of a backbone.
    """
    if isinstance(module, nn.Linear):
        # The original uses trunc_normal_, whose default bounds are -2 and 2, and not two standard deviations. So it
        # sometimes draws a weight of -2.
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ConvPatchEmbed(nn.Module):
    """Convolutional stem: 3 x 3 convolutions of stride 2 with batch norm, and GELU between them.

    Odd sizes round up at each convolution: an image of H x W pixels becomes ceil(H / p) x ceil(W / p) tokens. Source:
    class ``ConvPatchEmbed`` of the original ``xcit.py``.

    Args:
        in_channels: Channels of the image.
        dim: Channels of a token.
        patch_size: 8 or 16.
        norm_layer: A function that makes a batch norm from a number of channels.

    Raises:
        UserError: ``dim`` is not a multiple of half the patch size.
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
        self.proj = nn.Sequential(*layers[:-1])  # no GELU after the last batch norm

    def forward(self, images: Tensor) -> Tensor:
        """Turns images (B, in_channels, H, W) into a map of tokens (B, C, ceil(H / p), ceil(W / p))."""
        return run([self.proj], images)


class PositionalEncodingFourier(nn.Module):
    """Sines and cosines of the position, projected to the width of a token. The waves of y come before the waves of x.

    Coordinates run from 1 to n. They are divided by (n + 1e-6) and multiplied by 2 pi, so that the encoding stretches
    with the image. Source: class ``PositionalEncodingFourier`` of the original ``xcit.py``.

    Args:
        dim: Channels C of a token.
        hidden_dim: Waves of one axis, sines and cosines together; even.
        temperature: Base T of the frequencies T ** (-2 i / hidden_dim), i = 0 .. hidden_dim / 2 - 1.

    Attributes:
        keep: Number of sizes whose encodings are kept. By default 0. :func:`xcit_dense.deploy` sets it, because the
            weights of a deployed model do not change.
    """

    def __init__(self, dim: int, hidden_dim: int = 32, temperature: float = 10_000.0) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * hidden_dim, dim, kernel_size=1)
        self.hidden_dim = hidden_dim
        self.temperature = temperature
        self.keep = 0
        self._kept: dict[Hashable, Tensor] = {}

    def forward(self, height: int, width: int) -> Tensor:
        """Computes the encoding of ``height`` x ``width`` tokens, (1, C, height, width)."""
        if not self._may_keep():
            return self._encode(height, width)
        weight = floating_weight(self.token_projection)
        key = height, width, weight.device, product_dtype(weight)
        if key not in self._kept:
            while len(self._kept) >= self.keep:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = self._encode(height, width)
        return self._kept[key]

    def _may_keep(self) -> bool:
        if not self.keep or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed():
            return False
        return plain_type(self.token_projection) is nn.Conv2d  # a hook has to run at every call

    def encode_rows(self, height: int, width: int, rows: slice) -> Tensor:
        """Computes some rows of the encoding of ``height`` x ``width`` tokens, (1, C, number of rows, width)."""
        return self._project(self._waves(height)[:, rows], self._waves(width))

    def _encode(self, height: int, width: int) -> Tensor:
        return self._project(self._waves(height), self._waves(width))

    def _project(self, waves_y: Tensor, waves_x: Tensor) -> Tensor:
        """Projects waves (hidden_dim, height) and (hidden_dim, width) to the encoding (1, C, height, width)."""
        height, width = waves_y.shape[1], waves_x.shape[1]
        waves_y = waves_y[:, :, None].expand(-1, -1, width)  # (hidden_dim, height, width)
        waves_x = waves_x[:, None, :].expand(-1, height, -1)  # (hidden_dim, height, width)
        waves = torch.cat((waves_y, waves_x))[None]  # (1, 2 hidden_dim, height, width)
        return self.token_projection(channels_last(waves))

    def _waves(self, n: int) -> Tensor:
        """Computes the waves at n positions of an axis, (hidden_dim, n), in at least fp32."""
        weight = floating_weight(self.token_projection)
        # Angles reach 2 pi, and every token depends on their sines. Half precision is not precise enough.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        position = torch.arange(1, n + 1, dtype=dtype, device=weight.device)  # (n,)
        octave = torch.arange(self.hidden_dim // 2, dtype=dtype, device=weight.device)
        frequency = self.temperature ** (-2 * octave / self.hidden_dim)  # (hidden_dim / 2,)
        angle = frequency[:, None] * (position * (2 * math.pi / (n + 1e-6)))  # (hidden_dim / 2, n)
        waves = torch.stack((angle.sin(), angle.cos()), dim=1)  # (hidden_dim / 2, 2, n)
        return waves.flatten(0, 1).to(weight.dtype)  # (hidden_dim, n): sine, cosine, sine, ...


class LPI(nn.Module):
    """Local patch interaction: two depth-wise 3 x 3 convolutions, with GELU and batch norm between them.

    LPI mixes neighbouring tokens, which XCA does not do. Source: paper section 3.3; class ``LPI`` of the original
    ``xcit.py``.

    Args:
        dim: Channels C.
        norm_layer: A function that makes the batch norm from a number of channels.
    """

    def __init__(self, dim: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.act = nn.GELU()
        self.bn = norm_layer(dim)
        self.conv2 = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: Tensor, norm: nn.Module | None = None, gain: Tensor | None = None) -> Tensor:
        """Mixes each position of a map (B, C, H, W) with its neighbours; same shape.

        Args:
            x: Map (B, C, H, W).
            norm: A norm layer that is applied to ``x`` first. In here the norm needs less memory than outside.
            gain: (C,), multiplies the channels of the result. In here the gain needs less memory than outside.
        """
        return run([norm, self.conv1, self.act, self.bn, self.conv2], x, gain)


class MLP(nn.Module):
    """Two linear layers at each position, with GELU between them.

    Source: timm's ``Mlp``. The layers have the same names.

    Args:
        dim: Channels C, in and out.
        hidden_dim: Channels between the two layers.
        drop: Dropout probability after each of the two layers, in [0, 1].
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, norm: nn.Module | None = None, gain: Tensor | None = None) -> Tensor:
        """Maps each position of (B, C, H, W) by itself; same shape. ``norm`` and ``gain`` as in :class:`LPI`."""
        layers = [norm, PerPosition(self.fc1), self.act, self.drop, PerPosition(self.fc2)]
        return self.drop(run(layers, x, gain))


class XCABlock(nn.Module):
    """One block of XCiT: the branches XCA, LPI and MLP, one after the other.

    Each branch computes x + gamma * branch(norm(x)). Source: paper figure 1; class ``XCABlock`` of the original
    ``xcit.py``. The published names number the norms and gains 1 (XCA), 3 (LPI) and 2 (MLP).

    Args:
        dim: Channels C.
        num_heads: Heads of the attention.
        mlp_ratio: Hidden channels of the MLP, divided by C.
        qkv_bias: Whether the projection to Q, K and V has a bias.
        drop: Dropout probability after the projections of the MLP and of the attention.
        attn_drop: Dropout probability of the attention matrix.
        drop_path: Probability of skipping a branch for a sample (stochastic depth).
        eta: Initial value of the gains gamma.
        norm_layer: A function that makes the batch norm of the LPI from a number of channels.
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
        height, width = x.shape[2:]
        tokens = self.add_attention(map_to_tokens(x))  # (B, H W, C)
        tokens = self.add_neighbours(tokens, height, width)
        tokens = self.add_mlp(tokens, height, width)
        return tokens_to_map(tokens, height, width)

    # The sums are sums of tokens. Between sums of maps, an exported graph would have transposes.

    def add_attention(
        self, tokens: Tensor, token_map: tuple[Tensor, Tensor] | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Adds the branch XCA to tokens (B, N, C).

        Args:
            tokens: The tokens of an image, in any order.
            token_map: M and c of :meth:`XCA.token_map`, for tokens that are a part of an image. By default,
                the tokens are all tokens of the image.
            scale: (B, 1, 1), what the branch is multiplied by in place of a draw of stochastic depth. All parts of an
                image must have one draw.
        """
        if token_map is None:
            branch = _branch(self.attn, XCA, self.norm1, self.gamma1, tokens)
        else:
            branch = self.attn.apply_token_map(tokens, token_map, self.norm1, self.gamma1)
        return _add(tokens, self._drop(branch, scale))

    def add_neighbours(self, tokens: Tensor, height: int, width: int, scale: Tensor | None = None) -> Tensor:
        """Adds the branch LPI to the tokens (B, H W, C) of a map. Each token depends on two rows and columns around.

        ``scale`` as in :meth:`add_attention`.
        """
        mixed = _branch(self.local_mp, LPI, self.norm3, self.gamma3, tokens_to_map(tokens, height, width))
        return _add(tokens, self._drop(map_to_tokens(mixed), scale))

    def add_mlp(self, tokens: Tensor, height: int, width: int, scale: Tensor | None = None) -> Tensor:
        """Adds the branch MLP to the tokens (B, H W, C) of a map. Each token is computed by itself.

        ``scale`` as in :meth:`add_attention`.
        """
        mapped = _branch(self.mlp, MLP, self.norm2, self.gamma2, tokens_to_map(tokens, height, width))
        return _add(tokens, self._drop(map_to_tokens(mapped), scale))

    def _drop(self, branch: Tensor, scale: Tensor | None) -> Tensor:
        return self.drop_path(branch) if scale is None else branch * scale.to(branch.dtype)


def _branch(layer: nn.Module, own: type[nn.Module], norm: nn.Module, gain: Tensor, x: Tensor) -> Tensor:
    """Computes gain * layer(norm(x)) of tokens (B, N, C) or a map (B, C, H, W).

    A plain layer of the block's own type applies norm and gain itself, which needs less memory. A layer of another type
    and the hooks of a layer take and return the same tensors as in the original code.
    """
    if plain_type(layer) is own:
        return layer(x, norm=norm, gain=gain)
    y = layer(norm(x))
    return y * (gain if y.ndim == 3 else gain[:, None, None])  # (C,) for tokens, (C, 1, 1) for a map


def _add(x: Tensor, branch: Tensor) -> Tensor:
    """Computes the sum of the two in the dtype of ``x``."""
    if branch.dtype == x.dtype or (is_gpu(x.device) and torch.promote_types(x.dtype, branch.dtype) == x.dtype):
        return x + branch
    # On a CPU, PyTorch adds two dtypes slowly. The copy is overwritten, and not ``branch``, which a hook may have kept.
    return branch.to(x.dtype).add_(x)
