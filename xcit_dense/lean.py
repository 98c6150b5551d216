"""Layers in a row that keep little for the backward pass, on maps in channels-last memory.

PyTorch keeps the input of every layer. But norms and activations are cheap *steps*: a *product* (a linear layer, a
convolution, those of XCA) can keep the input of the steps before it in place of its own, and redo them in its backward
pass. So of

    layer norm -> linear -> GELU -> linear

the inputs of layer norm and GELU are kept alone, and no product is computed twice. :func:`run` does this for layers in
a row, :func:`multiply` for one product. Compiled or traced, both are plain layers: a compiler decides by itself what to
redo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, cast

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from .norms import synchronises

_ONEDNN = torch.backends.mkldnn.is_available()  # here, because torch.compile cannot follow the question
# A convolution with GELU while its output is at hand: what torch.compile takes on CPU, and without a public name.
_CONVOLVE_AND_ACTIVATE = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if _ONEDNN else None

_PRODUCTS = nn.Conv2d, nn.Linear, nn.ConvTranspose2d

Gradients = tuple[Tensor | None, ...]
Redo = tuple[Callable[..., Tensor], tuple[Tensor, ...]]  # a function, and the tensors it takes beside its input


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


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype that products of ``x`` have: that of autocast where it is on, which leaves float64 alone."""
    dtype = _autocast_dtype(x.device)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Where products have the dtype of their operands."""
    return nullcontext() if _autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of autocast on a device, if it is on. It knows no meta device."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None


def run(layers: Iterable[nn.Module], x: Tensor, gain: Tensor | None = None) -> Tensor:
    """Computes ``nn.Sequential(*layers)(x)``, times a gain for each channel.

    Args:
        layers: Sequentials are taken apart, linear layers are applied position by position.
        x: Map (B, C, H, W), best in channels-last memory.
        gain: (C',), if the last layer is a linear layer or a convolution with C' channels.

    Returns:
        Map (B, C', H', W').
    """
    layers = [*_flat(layers)]
    # In the weights, a gain needs no input kept. But gains start at 1e-5, and fp16 has no digits left below that.
    folds = gain is not None and product_dtype(x) != torch.float16
    steps: list[nn.Module] = []
    for layer, gelu in _pair(layers):
        scale = gain if folds and layer is layers[-1] else None
        if isinstance(layer, nn.Conv2d):
            stride, padding = cast(Any, (layer.stride, layer.padding))
            convolution = Convolution(stride, padding, layer.groups, gelu)
            x = multiply(convolution, x, *_operands(layer, scale), steps=steps)
        elif isinstance(layer, nn.Linear):
            x = multiply(Pointwise(gelu), x, *_operands(layer, scale), steps=steps)
        elif isinstance(layer, nn.ConvTranspose2d):
            x = _activate(gelu, _double(layer, x, steps))
        else:
            steps.append(layer)
            continue
        steps = []
    x = _through(steps, x)
    return x if gain is None or folds else x * gain[:, None, None]


def multiply(product: Product, x: Tensor, *operands: Tensor, steps: Iterable[nn.Module] = ()) -> Tensor:
    """Computes ``product(nn.Sequential(*steps)(x), *operands)`` and keeps ``x`` for it, not the product's input.

    Layer norm, batch norm and GELU can be redone. If another layer is among the steps (dropout, synchronised batch
    norm), the product's input is kept.
    """
    steps = [*steps]
    if not torch.is_grad_enabled() or _is_traced():
        return product(_through(steps, x), *operands)
    found = [redo for step in steps if (redo := _redo(step, x.device))]
    if len(found) < len(steps):
        x, steps, found = _through(steps, x), [], []

    def again(x: Tensor, *tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        for function, of_step in found:
            x = function(x, *islice(rest, len(of_step)))
        return x

    tensors = chain(operands, *(of_step for _, of_step in found))
    return _Lean.apply(product, partial(_through, steps), again, len(operands), x, *tensors)


class _Lean(torch.autograd.Function):
    """A product of what steps make of x. Keeps x, the product's operands and the tensors that the steps take."""

    @staticmethod
    def forward(
        product: Product,
        steps: Callable[[Tensor], Tensor],
        again: Callable[..., Tensor],
        count: int,
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        """Computes ``product(steps(x), *operands)``; the first ``count`` tensors are operands, the others of steps.

        ``again(x, *others)`` is ``steps(x)`` without side effects.
        """
        return product(steps(x), *tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.product, _, ctx.again, ctx.count, x, *tensors = inputs
        ctx.save_for_backward(x, *tensors)
        ctx.autocast = _autocast_dtype(x.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needs, end = ctx.saved_tensors, ctx.needs_input_grad[4:], 1 + ctx.count
        twice = torch.is_grad_enabled()  # a derivative of this one is wanted: autograd has to see all of it
        if twice:
            # Views, for their gradients not to hold what comes by way of their history: that autograd adds itself.
            inputs = [tensor.view_as(tensor) for tensor in inputs]
        else:
            inputs = [tensor.detach().requires_grad_(need) for tensor, need in zip(inputs, needs)]
        operands, others = inputs[1:end], [inputs[0], *inputs[end:]]
        autocast = torch.autocast(grad.device.type, ctx.autocast) if ctx.autocast else nullcontext()
        with torch.enable_grad(), autocast:
            z = ctx.again(*others)
            if twice:
                return (None,) * 4 + _gradients(ctx.product(z, *operands), inputs, grad, create_graph=True)
        with without_autocast(grad.device):
            dz, *of_operands = ctx.product.backward(grad, [z.requires_grad, *needs[1:end]], z.detach(), *operands)
        dx, *of_steps = _gradients(z, others, dz)
        return None, None, None, None, dx, *of_operands, *of_steps


def _gradients(output: Tensor, inputs: Sequence[Tensor], grad: Tensor | None, **options: bool) -> Gradients:
    """The gradients of those inputs that need one; None for the others."""
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    if not needed or grad is None:
        return (None,) * len(inputs)
    found = iter(torch.autograd.grad(output, needed, grad.to(output.dtype), **options))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


def _redo(step: nn.Module, device: torch.device) -> Redo | None:
    """The step as a function without side effects and the tensors it takes, or None."""
    if isinstance(step, nn.GELU):
        return partial(F.gelu, approximate=cast(Any, step.approximate)), ()
    if getattr(step, "weight", None) is None or getattr(step, "bias", None) is None:
        return None
    if isinstance(step, LayerNorm2d):
        return partial(_layer_norm_2d, step.eps), (step.weight, step.bias)
    if isinstance(step, nn.LayerNorm):
        return partial(_layer_norm, step.eps), (step.weight, step.bias)
    if isinstance(step, nn.BatchNorm2d) and not synchronises(step, device):
        if step.training or step.running_mean is None or step.running_var is None:
            return partial(_batch_norm, step.eps), (step.weight, step.bias)
        return partial(_batch_norm, step.eps), (step.weight, step.bias, step.running_mean, step.running_var)
    return None


def _layer_norm(eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def _layer_norm_2d(eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _layer_norm(eps, x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _batch_norm(eps: float, x: Tensor, weight: Tensor, bias: Tensor, *statistics: Tensor) -> Tensor:
    mean, variance = statistics or (None, None)
    return F.batch_norm(x, mean, variance, weight, bias, training=not statistics, eps=eps)


def _operands(layer: nn.Linear | nn.Conv2d, gain: Tensor | None) -> list[Tensor]:
    """Weight and, if there is one, bias of a layer, the layer's channels multiplied by a gain (C',)."""
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return tensors if gain is None else [gain.view(-1, *[1] * (tensor.ndim - 1)) * tensor for tensor in tensors]


def _double(layer: nn.ConvTranspose2d, x: Tensor, steps: Sequence[nn.Module]) -> Tensor:
    """A transposed convolution of kernel and stride 2, as one linear layer for four positions and a shuffle.

    The gradient of the weights takes a fifth of the time that it takes as a convolution.
    """
    if not torch.is_grad_enabled():
        return layer(_through(steps, x))
    assert layer.bias is not None
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C', C)
    y = multiply(Pointwise(), x, weight, layer.bias.repeat(4), steps=steps).unflatten(1, (2, 2, -1))
    batch, _, _, channels, height, width = y.shape
    y = y.permute(0, 4, 1, 5, 2, 3).reshape(batch, 2 * height, 2 * width, channels)
    return y.permute(0, 3, 1, 2)


def _through(steps: Iterable[nn.Module], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _pair(layers: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, nn.GELU | None]]:
    """The layers, at inference each product together with the GELU behind it."""
    separate = torch.is_grad_enabled() or _is_traced()
    layers = [*layers]
    while layers:
        layer, *layers = layers
        gelu = None
        if not separate and isinstance(layer, _PRODUCTS) and layers and isinstance(layers[0], nn.GELU):
            gelu, *layers = layers
        yield layer, cast(Any, gelu)


def _flat(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers that do something, one by one."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _flat(layer)
        elif isinstance(layer, nn.Dropout) and (layer.p == 0 or not layer.training):
            continue
        elif not isinstance(layer, nn.Identity):
            yield layer
