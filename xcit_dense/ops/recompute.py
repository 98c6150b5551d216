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
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from typing import Any, cast

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.ops.autocast import _autocast_dtype, product_dtype, without_autocast
from xcit_dense.ops.conv import Convolution, Gradients, Pointwise, Product, _activate
from xcit_dense.ops.norms import synchronises

_PRODUCTS = nn.Conv2d, nn.Linear, nn.ConvTranspose2d
Redo = tuple[Callable[..., Tensor], tuple[Tensor, ...]]  # a function, and the tensors it takes beside its input


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
