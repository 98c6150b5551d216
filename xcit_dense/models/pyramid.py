"""The pyramid: maps of one resolution, taken from blocks, become levels at strides 4, 8, 16 and 32, or at some of them.

Source: the backbone ``xcit.py`` of the original detection and segmentation code, which has four levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.errors import UserError
from xcit_dense.models.loading import LEVELS
from xcit_dense.ops.norms import NormLayer
from xcit_dense.ops.recompute import run

STRIDES = (4, 8, 16, 32)
"""Strides of the published models, in pixels."""
ALL_STRIDES = (*STRIDES, 64)
"""Strides that a backbone can have."""


class MaxPool(nn.Module):
    """Max pooling by an integer factor. Sizes round down, but not below 1.

    Args:
        factor: Kernel size and stride in positions.

    Example:
        >>> import torch
        >>> from xcit_dense.models.pyramid import MaxPool
        >>> MaxPool(2)(torch.zeros(1, 8, 5, 1)).shape
        torch.Size([1, 8, 2, 1])
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Pools (B, C, H, W) to (B, C, max(1, H // factor), max(1, W // factor))."""
        height, width = x.shape[-2:]
        return F.max_pool2d(x, (min(self.factor, height), min(self.factor, width)))


class Level(nn.Sequential):
    """A ``Sequential`` that keeps less memory for the backward pass (see :mod:`xcit_dense.ops.recompute`)."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the size of the level, (B, C, H', W')."""
        return run(self, input)


def _make_upsampling(dim: int) -> nn.Module:
    """Makes a layer (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)


def make_levels(
    dim: int, patch_size: int, norm_layer: NormLayer, strides: Sequence[int] = STRIDES
) -> dict[str, nn.Module]:
    """Makes the modules that bring maps of stride ``patch_size`` to the strides of the levels.

    Args:
        dim: Channels of each map, in and out.
        patch_size: Stride of the input maps, 8 or 16.
        norm_layer: A function that makes the batch norm of the level of stride 4 from a number of channels.
        strides: The strides of the levels, out of :data:`ALL_STRIDES`. The level of stride 64 is the level of stride 32
            of the same map, pooled once more.

    Returns:
        The modules by their published names, in the order of ``strides``. Each maps (B, C, H, W) to (B, C, H', W').

    Raises:
        UserError: The patch size is not 8 or 16.

    Example:
        >>> from torch import nn
        >>> from xcit_dense.models.pyramid import make_levels
        >>> [type(level).__name__ for level in make_levels(16, 8, nn.BatchNorm2d).values()]
        ['Level', 'Identity', 'MaxPool', 'MaxPool']
        >>> list(make_levels(16, 16, nn.BatchNorm2d, strides=(8, 16, 32)))
        ['fpn2', 'fpn3', 'fpn4']
    """
    if patch_size not in (8, 16):
        raise UserError(f"patch_size={patch_size} does not have a pyramid; write patch_size=8 or 16.")
    return {level_name(stride): make_level(dim, patch_size, norm_layer, stride) for stride in strides}


def level_name(stride: int) -> str:
    """Returns the published name of the module that makes the level of a stride: ``'fpn1'`` for stride 4.

    Args:
        stride: One of :data:`ALL_STRIDES`.
    """
    return LEVELS[ALL_STRIDES.index(stride)]


def make_level(dim: int, patch_size: int, norm_layer: NormLayer, stride: int) -> nn.Module:
    """Makes the module that brings a map of stride ``patch_size`` to another stride.

    Args:
        dim: Channels of the map, in and out.
        patch_size: Stride of the map, 8 or 16.
        norm_layer: A function that makes a batch norm from a number of channels.
        stride: The other stride, one of :data:`ALL_STRIDES`.

    Returns:
        A module that maps (B, C, H, W) to (B, C, H', W').
    """
    if stride * 4 == patch_size:
        return Level(_make_upsampling(dim), norm_layer(dim), nn.GELU(), _make_upsampling(dim))
    if stride * 2 == patch_size:
        return Level(_make_upsampling(dim))
    if stride == patch_size:
        return nn.Identity()
    if stride == 64:
        # Two steps, because the size of the level of stride 32 rounds down before this level halves the size.
        return nn.Sequential(MaxPool(32 // patch_size), MaxPool(2))
    return MaxPool(stride // patch_size)
