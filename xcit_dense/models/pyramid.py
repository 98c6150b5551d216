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
    """Max pooling by a whole factor; sizes round down, but never below one.

    Args:
        factor: Kernel and stride in positions.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Pools (B, C, H, W) to (B, C, max(1, H // factor), max(1, W // factor))."""
        height, width = x.shape[-2:]
        return F.max_pool2d(x, (min(self.factor, height), min(self.factor, width)))


class Level(nn.Sequential):
    """Layers of a level: a ``Sequential`` that keeps less for the backward pass (:mod:`xcit_dense.ops.recompute`)."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, ., .)."""
        return run(self, input)


def _double(dim: int) -> nn.Module:
    return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)


def make_levels(dim: int, patch_size: int, norm_layer: NormLayer) -> dict[str, nn.Module]:
    """Makes the four modules that bring maps of stride ``patch_size`` to strides 4, 8, 16 and 32.

    Args:
        dim: Channels of each map, in and out.
        patch_size: Stride of the maps that come in, 8 or 16.
        norm_layer: Makes the batch norm of the first level.

    Returns:
        The modules under their published names, finest first. Each maps (B, C, H, W) to (B, C, ., .).

    Raises:
        UserError: Another patch size.
    """
    if patch_size == 16:
        quadruple = Level(_double(dim), norm_layer(dim), nn.GELU(), _double(dim))
        levels = [quadruple, Level(_double(dim)), nn.Identity(), MaxPool(2)]
    elif patch_size == 8:
        levels = [Level(_double(dim)), nn.Identity(), MaxPool(2), MaxPool(4)]
    else:
        raise UserError(f"patch_size={patch_size} has no pyramid; write patch_size=8 or 16.")
    return {f"fpn{number}": level for number, level in enumerate(levels, start=1)}
