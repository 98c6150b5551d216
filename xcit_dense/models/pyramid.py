"""The pyramid: maps of one resolution, taken from four blocks, become levels at strides 4, 8, 16 and 32.

Source: the backbone ``xcit.py`` of the original detection and segmentation code.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.errors import UserError
from xcit_dense.ops.norms import NormLayer
from xcit_dense.ops.recompute import run

STRIDES = (4, 8, 16, 32)


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


def make_levels(dim: int, patch_size: int, norm_layer: NormLayer) -> dict[str, nn.Module]:
    """Makes the four modules that bring maps of stride ``patch_size`` to strides 4, 8, 16 and 32.

    Args:
        dim: Channels of each map, in and out.
        patch_size: Stride of the input maps, 8 or 16.
        norm_layer: A function that makes the batch norm of the first level from a number of channels.

    Returns:
        The modules by their published names, finest level first. Each maps (B, C, H, W) to (B, C, H', W').

    Raises:
        UserError: The patch size is not 8 or 16.

    Example:
        >>> from torch import nn
        >>> from xcit_dense.models.pyramid import make_levels
        >>> [type(level).__name__ for level in make_levels(16, 8, nn.BatchNorm2d).values()]
        ['Level', 'Identity', 'MaxPool', 'MaxPool']
    """
    if patch_size == 16:
        quadruple = Level(_make_upsampling(dim), norm_layer(dim), nn.GELU(), _make_upsampling(dim))
        levels = [quadruple, Level(_make_upsampling(dim)), nn.Identity(), MaxPool(2)]
    elif patch_size == 8:
        levels = [Level(_make_upsampling(dim)), nn.Identity(), MaxPool(2), MaxPool(4)]
    else:
        raise UserError(f"patch_size={patch_size} does not have a pyramid; write patch_size=8 or 16.")
    return {f"fpn{number}": level for number, level in enumerate(levels, start=1)}
