"""Layers that fix the image's size in a graph, written so that they do not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, because ONNX has no pooling whose windows follow from the size.

    Args:
        count: The number of windows along each side.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from xcit_dense.mm.export.plain import AdaptivePool
        >>> x = torch.rand(1, 4, 7, 10)
        >>> torch.allclose(AdaptivePool(3)(x), nn.AdaptiveAvgPool2d(3)(x))
        True
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Pools (B, C, H, W) to (B, C, count, count)."""
        rows, columns = self._windows(x, x.shape[2]), self._windows(x, x.shape[3])
        return rows @ x @ columns.transpose(0, 1)

    def _windows(self, x: Tensor, size: int) -> Tensor:
        """The weight of each position in each window, (count, size)."""
        window = torch.arange(self.count, device=x.device)[:, None]  # (count, 1)
        position = torch.arange(size, device=x.device)[None]  # (1, size)
        start = window * size // self.count
        end = ((window + 1) * size + self.count - 1) // self.count
        inside = ((position >= start) & (position < end)).to(x.dtype)  # (count, size)
        return inside / inside.sum(dim=1, keepdim=True)


class Enlargement(nn.Module):
    """MMSegmentation's ``Upsample`` by a factor. The original computes the size as a Python number.

    Args:
        factor: The factor, an integer.
        mode: As for ``F.interpolate``.
        align_corners: As for ``F.interpolate``.
    """

    def __init__(self, factor: int, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.factor = factor
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Resizes (B, C, H, W) to (B, C, factor H, factor W)."""
        size = (self.factor * x.shape[2], self.factor * x.shape[3])
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


def pad(images: Tensor, divisor: int, value: float) -> Tensor:
    """Pads images at the bottom and at the right, so that their sides are multiples of a number of pixels.

    Args:
        images: (B, C, H, W).
        divisor: The number of pixels.
        value: The value of padded pixels.

    Example:
        >>> import torch
        >>> from xcit_dense.mm.export.plain import pad
        >>> pad(torch.ones(1, 3, 64, 70), 32, value=0.0).shape
        torch.Size([1, 3, 64, 96])
    """
    height, width = images.shape[2:]
    rows, columns = (height + divisor - 1) // divisor, (width + divisor - 1) // divisor
    return F.pad(images, (0, columns * divisor - width, 0, rows * divisor - height), value=value)


def make_plain(model: nn.Module) -> None:
    """Replaces the layers of a segmentor that would fix the image's size in a graph.

    Args:
        model: The segmentor, which is changed in place. Its outputs stay the same.
    """
    from mmseg.models.utils.wrappers import Upsample

    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                setattr(module, name, AdaptivePool(child.output_size))
            elif isinstance(child, Upsample) and not child.size and float(child.scale_factor).is_integer():
                setattr(module, name, Enlargement(int(child.scale_factor), child.mode, child.align_corners))
