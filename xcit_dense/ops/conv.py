"""Convolutions and linear layers with their gradients, on maps in channels-last memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.ops import winograd
from xcit_dense.ops.autocast import product_dtype
from xcit_dense.ops.exporting import is_exporting
from xcit_dense.ops.transforms import is_transformed

# Asked once, at import, because torch.compile cannot trace the question.
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
# A convolution that applies GELU while its output is in the cache. torch.compile uses the operator on CPU. The operator
# has no public name.
_CONVOLVE_AND_ACTIVATE = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if _HAS_ONEDNN else None
# The operator refuses bf16 on a CPU without AVX-512, where F.conv2d has a slower kernel.
_HAS_ONEDNN_BF16 = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()

Gradients = tuple[Tensor | None, ...]


class Product(Protocol):
    """A function of an input and of operands. Its derivatives need nothing but the input and the operands."""

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        """Computes the product."""

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        """Computes the gradients of ``x`` and of the operands.

        Args:
            grad: Gradient of the product.
            needs: One for ``x`` and one for each operand. A gradient that is not needed may be None.
            x: Input of the product.
            *operands: Operands of the product.
        """


@dataclass
class Convolution:
    """A convolution of maps (B, C, H, W) with zero padding. Its operands are the weight and, if there is one, the bias.

    Args:
        stride: Vertical and horizontal stride.
        padding: Vertical and horizontal padding.
        groups: Groups of channels.
        gelu: A GELU that is applied to the result. Only allowed without gradients.
    """

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    groups: int = 1
    gelu: nn.GELU | None = None

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        """Computes the convolution, (B, C', H', W')."""
        weight, bias = _weight_and_bias(operands)
        dtype = product_dtype(x)
        if not torch.is_grad_enabled() and self._is_faster_by_tiles(x, weight, dtype):
            return activate(self.gelu, winograd.convolve(x, winograd.transform_kernel(weight), bias))
        fuses = _is_faster_as_convolution(x.device, dtype) and (dtype != torch.bfloat16 or _HAS_ONEDNN_BF16)
        if self.gelu and _CONVOLVE_AND_ACTIVATE and fuses:
            return _CONVOLVE_AND_ACTIVATE(
                X=x.to(dtype),
                W=weight.to(dtype),
                B=None if bias is None else bias.to(dtype),
                padding=self.padding,
                stride=self.stride,
                dilation=(1, 1),
                groups=self.groups,
                attr="gelu",
                scalars=[],
                algorithm=self.gelu.approximate,
            )
        return activate(self.gelu, F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups))

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        """Computes the gradients of ``x``, the weight and, if there is one, the bias."""
        weight, bias = _weight_and_bias(operands)
        x, weight = x.to(grad.dtype), weight.to(grad.dtype)
        needs_x, needs_weight, needs_bias = [*needs, False][:3]
        if self._is_faster_by_tiles(grad, weight.transpose(0, 1), grad.dtype):
            reversed_kernel = winograd.transform_kernel(weight.flip(2, 3).transpose(0, 1))
            grad_x = winograd.convolve(grad, reversed_kernel) if needs_x else None
            grad_weight = winograd.weight_gradient(grad, x) if needs_weight else None
            return (grad_x, grad_weight, grad.sum((0, 2, 3)) if needs_bias else None)[: len(needs)]
        by_patches = needs_weight and self._has_slow_weight_gradient(x, weight)
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad_output=grad,
            input=x,
            weight=weight,
            bias_sizes=None if bias is None else [*bias.shape],
            stride=self.stride,
            padding=self.padding,
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=self.groups,
            output_mask=[needs_x, needs_weight and not by_patches, needs_bias],
        )
        if by_patches:
            grad_weight = self._weight_gradient_by_patches(grad, x, weight)
        return (grad_x, grad_weight, grad_bias)[: len(needs)]

    def _is_faster_by_tiles(self, x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
        return self.groups == 1 and winograd.is_faster(x, weight, self.stride, self.padding, dtype)

    def _has_slow_weight_gradient(self, x: Tensor, weight: Tensor) -> bool:
        # In channels-last memory, oneDNN computes the weight's gradient at half speed for strides, and at a quarter of
        # the speed for a kernel of 3 x 3. For the few channels of an image oneDNN has special kernels.
        if x.device.type != "cpu" or self.groups > 1 or x.shape[1] <= 4:
            return False
        large = max(weight.shape[2:]) > 1 and x.is_contiguous(memory_format=torch.channels_last)
        return large or max(self.stride) > 1

    def _weight_gradient_by_patches(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Computes the weight's gradient (C', C, kh, kw) as one matrix product for each row of the kernel.

        A patch is what one row of the kernel sees at one output position: kw neighbouring input positions, C channels
        each. In channels-last memory a patch is contiguous, so that all patches of a kernel row are a view of ``x``.
        """
        (down, right), (top, left) = self.stride, self.padding
        channels, kernel_height, kernel_width = weight.shape[1:]
        batch, _, out_height, out_width = grad.shape
        grad_rows = grad.permute(0, 2, 3, 1).flatten(0, 2)  # (B, C', H', W') -> (B H' W', C')
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))  # (B, H + 2 top, W + 2 left, C)
        by_image, by_row, by_column, _ = x.stride()
        size = batch, out_height, out_width, kernel_width * channels
        strides = by_image, down * by_row, right * by_column, 1
        by_kernel_row = []
        for row in range(kernel_height):
            patches = x.as_strided(size, strides, storage_offset=row * by_row).flatten(0, 2)  # (B H' W', kw C)
            by_kernel_row.append((grad_rows.mT @ patches).unflatten(1, (kernel_width, channels)))  # (C', kw, C)
        return torch.stack(by_kernel_row, dim=1).permute(0, 3, 1, 2)  # (C', kh, kw, C) -> (C', C, kh, kw)


@dataclass
class Pointwise:
    """A linear layer at every position of a map (B, C, H, W). Its operands are the weight (C', C) and the bias (C',).

    Args:
        gelu: A GELU that is applied to the result. Only allowed without gradients.
    """

    gelu: nn.GELU | None = None

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        """Computes the output of the linear layer, (B, C', H, W)."""
        weight, bias = _weight_and_bias(operands)
        if _is_faster_as_convolution(x.device, product_dtype(x)):
            kernel = weight[:, :, None, None]  # (C', C) -> (C', C, 1, 1)
            return Convolution(gelu=self.gelu)(x, kernel, *operands[1:])
        y = F.linear(x.permute(0, 2, 3, 1), weight, bias)  # (B, H, W, C')
        return activate(self.gelu, y).permute(0, 3, 1, 2)

    def backward(self, grad: Tensor, needs: Sequence[bool], x: Tensor, *operands: Tensor) -> Gradients:
        """Computes the gradients of ``x``, the weight and, if there is one, the bias."""
        weight, bias = _weight_and_bias(operands)
        # In fp32, the matrix products of the gradients are a tenth faster than those of a convolution.
        if grad.dtype == torch.bfloat16 and _is_faster_as_convolution(grad.device, grad.dtype):
            kernel = weight[:, :, None, None]  # (C', C) -> (C', C, 1, 1)
            grad_x, grad_kernel = Convolution().backward(grad, needs[:2], x, kernel)
            grad_weight = None if grad_kernel is None else grad_kernel.flatten(1)  # (C', C, 1, 1) -> (C', C)
            # This sum is faster than oneDNN's gradient of the bias.
            return (grad_x, grad_weight) if bias is None else (grad_x, grad_weight, grad.sum(dim=(0, 2, 3)))
        grad = grad.permute(0, 2, 3, 1)  # (B, C', H, W) -> (B, H, W, C')
        grad_rows = grad.flatten(0, 2)  # (B H W, C')
        grad_x = grad_weight = None
        if needs[0]:
            grad_x = (grad @ weight.to(grad.dtype)).permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)
        if needs[1]:
            rows = x.to(grad.dtype).permute(0, 2, 3, 1).flatten(0, 2)  # (B, C, H, W) -> (B H W, C)
            grad_weight = grad_rows.mT @ rows  # (C', C)
        return (grad_x, grad_weight) if bias is None else (grad_x, grad_weight, grad_rows.sum(dim=0))


def channels_last(x: Tensor) -> Tensor:
    """Returns a map (B, C, H, W) in channels-last memory. Inside of ``torch.func`` the map is returned as it is.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.conv import channels_last
        >>> channels_last(torch.zeros(1, 3, 4, 5)).stride()
        (60, 1, 15, 3)
    """
    return x if is_transformed() else x.contiguous(memory_format=torch.channels_last)


def activate(gelu: nn.GELU | None, x: Tensor) -> Tensor:
    """Applies a GELU in place. ``x`` must not be used anywhere else."""
    return x if gelu is None else torch.ops.aten.gelu_(x, approximate=gelu.approximate)


def _weight_and_bias(operands: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    return operands[0], operands[1] if len(operands) > 1 else None


def _is_faster_as_convolution(device: torch.device, dtype: torch.dtype) -> bool:
    # A graph keeps the products of linear layers. The runtimes of exported models then need no transposes around them.
    if is_exporting():
        return False
    # On two cores, oneDNN's convolutions are up to a third faster than the matrix products of a linear layer. On one
    # core PyTorch does not call oneDNN for a convolution.
    several_cores = torch.compiler.is_compiling() or torch.get_num_threads() > 1
    return _HAS_ONEDNN and several_cores and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
