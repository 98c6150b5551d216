"""Products: convolutions and linear layers with their gradients, on maps in channels-last memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.ops.autocast import product_dtype

_ONEDNN = torch.backends.mkldnn.is_available()  # here, because torch.compile cannot follow the question
# A convolution with GELU while its output is at hand: what torch.compile takes on CPU, and without a public name.
_CONVOLVE_AND_ACTIVATE = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if _ONEDNN else None

Gradients = tuple[Tensor | None, ...]


class Product(Protocol):
    """A function of an input and of operands, whose derivatives need nothing but these."""

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        """The product."""

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        """The gradients of ``x`` and the operands from that of the product; None will do where ``needs`` is False."""


@dataclass
class Convolution:
    """A convolution of maps (B, C, H, W); operands are its weight and, if it has one, its bias."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    groups: int = 1
    gelu: nn.GELU | None = None  # to apply to the result, where no gradient is wanted

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        """The convolution."""
        weight, bias = _weight_and_bias(operands)
        dtype = product_dtype(x)
        if self.gelu and _CONVOLVE_AND_ACTIVATE and _convolves(x.device, dtype):
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            options: Any = self.padding, self.stride, (1, 1), self.groups, "gelu", [], self.gelu.approximate
            return _CONVOLVE_AND_ACTIVATE(x, weight, bias, *options)
        return _activate(self.gelu, F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups))

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        """Its gradients."""
        weight, bias = _weight_and_bias(operands)
        x, weight, mask = x.to(grad.dtype), weight.to(grad.dtype), [*needs, False][:3]
        by_patches = mask[1] and self._has_slow_gradient(x)
        mask[1] = mask[1] and not by_patches
        settings = self.stride, self.padding, (1, 1), False, (0, 0), self.groups, mask
        sizes = None if bias is None else [*bias.shape]
        dx, dw, db = torch.ops.aten.convolution_backward(grad, x, weight, sizes, *settings)
        return (dx, self._gradient_by_patches(grad, x, weight) if by_patches else dw, db)[: len(needs)]

    def _has_slow_gradient(self, x: Tensor) -> bool:
        # Of strided convolutions in channels-last memory oneDNN takes the gradient of weights at half speed. For an
        # image's few channels it has kernels of their own.
        return x.device.type == "cpu" and self.groups == 1 and max(self.stride) > 1 and x.shape[1] > 4

    def _gradient_by_patches(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the weights, for each row of the kernel as one product with the patches it saw."""
        (down, right), (top, left) = self.stride, self.padding
        channels, height, width = weight.shape[1:]
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        size = len(x), *grad.shape[2:], width * channels
        by_image, by_row, by_column, _ = x.stride()
        strides = by_image, down * by_row, right * by_column, 1
        patches = (x.as_strided(size, strides, row * by_row).flatten(0, 2) for row in range(height))
        return torch.stack([(rows.mT @ patch).unflatten(1, (width, -1)) for patch in patches], 1).permute(0, 3, 1, 2)


@dataclass
class Pointwise:
    """One linear layer at every position of a map (B, C, H, W); operands are its weight (C', C) and bias."""

    gelu: nn.GELU | None = None  # to apply to the result, where no gradient is wanted

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        """The linear layer's output, (B, C', H, W)."""
        weight, bias = _weight_and_bias(operands)
        if _convolves(x.device, product_dtype(x)):
            return Convolution(gelu=self.gelu)(x, weight[:, :, None, None], *operands[1:])
        return _activate(self.gelu, F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2))

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        """Its gradients."""
        weight, *bias = operands
        if _convolves(grad.device, grad.dtype):
            dx, dw = Convolution().backward(grad, needs[:2], x, weight[:, :, None, None])
            # oneDNN itself takes longer for the bias.
            return dx, None if dw is None else dw.flatten(1), *(grad.sum(dim=(0, 2, 3)) for _ in bias)
        rows = grad.permute(0, 2, 3, 1)
        dx = (rows @ weight.to(grad.dtype)).permute(0, 3, 1, 2) if needs[0] else None
        rows = rows.flatten(0, 2)
        dw = rows.mT @ x.to(grad.dtype).permute(0, 2, 3, 1).flatten(0, 2) if needs[1] else None
        return dx, dw, *(rows.sum(dim=0) for _ in bias)


def _weight_and_bias(operands: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    return operands[0], operands[1] if len(operands) > 1 else None


def _activate(gelu: nn.GELU | None, x: Tensor) -> Tensor:
    """Applies it in place, to what nobody else reads."""
    return x if gelu is None else torch.ops.aten.gelu_(x, approximate=gelu.approximate)


def _convolves(device: torch.device, dtype: torch.dtype) -> bool:
    # On two cores oneDNN's convolutions are up to a third faster than the products that linear layers take. On one core
    # PyTorch does not take oneDNN's.
    several = torch.compiler.is_compiling() or torch.get_num_threads() > 1
    return _ONEDNN and several and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
