"""Layers in a row that keep little memory for the backward pass.

PyTorch keeps the input of every layer for the backward pass. This module divides layers into two kinds:

- *Products* are expensive: linear layers, convolutions, and the two products of XCA.
- *Steps* are cheap: layer norm, batch norm and GELU.

A product here does not keep its own input. It keeps the input of the steps before it, and recomputes the steps in the
backward pass. For example, of

    layer norm -> linear -> GELU -> linear

only the inputs of layer norm and GELU are kept. No product is computed twice. On a GPU, launches take more time than
layer norms, so the result of the layer norm is kept too. :func:`run` does this for layers in a row, :func:`multiply`
does it for one product.

Only plain layers are computed in this way (:func:`xcit_dense.ops.layers.plain_type`). Every other module is called, so
that its hooks run and its own ``forward`` decides the result. Under ``torch.compile``, in a trace and inside of
``torch.func`` nothing is recomputed here, because PyTorch then decides itself what to keep and what to recompute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.ops.autocast import autocast_dtype, product_dtype, without_autocast
from xcit_dense.ops.conv import Convolution, Gradients, Pointwise, Product, activate
from xcit_dense.ops.devices import is_gpu
from xcit_dense.ops.exporting import is_exporting
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.norms import SyncBatchNorm, synchronises
from xcit_dense.ops.transforms import is_traced

# A step as a function f(x, *tensors), and the tensors.
PureStep = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class PerPosition:
    """A layer that acts on the last dimension, applied to the channels of each position of a map.

    Args:
        layer: A linear layer, or any module in its place: an adapter, a quantized layer, a wrapper.
    """

    layer: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        return self.layer(x).permute(0, 3, 1, 2)  # (B, H, W, C') -> (B, C', H, W)


def run(layers: Iterable[nn.Module | PerPosition | None], x: Tensor, gain: Tensor | None = None) -> Tensor:
    """Applies layers one after the other, and multiplies each channel of the result by a gain.

    Args:
        layers: Modules that take a map, and linear layers as :class:`PerPosition`. None stands for no layer.
        x: Map (B, C, H, W). Channels-last memory is the fastest.
        gain: (C',), or None for no gain.

    Returns:
        Map (B, C', H', W').

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from xcit_dense.ops.recompute import PerPosition, run
        >>> layers = nn.BatchNorm2d(8), PerPosition(nn.Linear(8, 32)), nn.GELU(), PerPosition(nn.Linear(32, 8))
        >>> run(layers, torch.randn(2, 8, 5, 6)).shape
        torch.Size([2, 8, 5, 6])
    """
    rest = [*_flatten(layers)]
    steps: list[nn.Module] = []
    while rest:
        layer = rest.pop(0)
        if not layer.is_product:
            if isinstance(layer.call, nn.Module):
                steps.append(layer.call)
            else:
                x, steps = layer.call(_apply(steps, x)), []
            continue
        gelu = _following_gelu(rest)
        if layer.kind is nn.ConvTranspose2d:
            x = activate(gelu, _upsample_by_two(layer.module, x, steps))
        else:
            scale = None
            # A gain that is part of the weights needs no memory. But gains start at 1e-5, and a product of a weight
            # and a gain underflows in fp16. On a GPU, weight and bias take more launches than the result.
            launches = is_gpu(x.device) and not torch.is_grad_enabled()
            if not rest and gelu is None and product_dtype(x) != torch.float16 and not launches:
                scale, gain = gain, None
            operands = _operands(layer.module, scale)
            x = multiply(_product(layer.module, gelu), x, *operands, steps=steps)
        steps = []
    x = _apply(steps, x)
    return x if gain is None else x * gain[:, None, None]


class _Layer(NamedTuple):
    """One entry of a row: how to call it, its module, and the module's type if the module is plain."""

    call: nn.Module | PerPosition
    module: Any
    kind: type[nn.Module] | None

    @property
    def is_product(self) -> bool:
        """Whether :func:`run` computes the entry from its weights."""
        if self.kind is nn.Linear:
            return isinstance(self.call, PerPosition)
        return self.kind in (nn.Conv2d, nn.ConvTranspose2d)


def _flatten(layers: Iterable[nn.Module | PerPosition | None]) -> Iterator[_Layer]:
    """Yields the layers one by one: without plain containers, and without plain layers that do nothing."""
    for layer in layers:
        if layer is None:
            continue
        module: Any = layer.layer if isinstance(layer, PerPosition) else layer
        kind = plain_type(module)
        if kind is nn.Sequential:
            yield from _flatten(module)
        elif kind is nn.Identity or (kind is nn.Dropout and (module.p == 0 or not module.training)):
            continue
        else:
            yield _Layer(layer, module, kind if _is_supported(module, kind) else None)


def _is_supported(layer: Any, kind: type[nn.Module] | None) -> bool:
    """Whether the functions below know all options of a plain layer."""
    if kind is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str) and layer.dilation == (1, 1)
    if kind is nn.ConvTranspose2d:
        doubles = layer.kernel_size == layer.stride == (2, 2) and layer.groups == 1 and layer.dilation == (1, 1)
        return doubles and layer.padding == layer.output_padding == (0, 0)
    return True


def _following_gelu(rest: list[_Layer]) -> nn.GELU | None:
    """Takes a GELU from the front of a row, for the product before it to apply. Only inference allows this."""
    if torch.is_grad_enabled() or (is_traced() and not is_exporting()) or not rest or rest[0].kind is not nn.GELU:
        return None
    return rest.pop(0).module


def _product(layer: nn.Linear | nn.Conv2d, gelu: nn.GELU | None) -> Convolution | Pointwise:
    if isinstance(layer, nn.Linear):
        return Pointwise(gelu)
    return Convolution(cast(Any, layer.stride), cast(Any, layer.padding), layer.groups, gelu)


def _operands(layer: nn.Linear | nn.Conv2d, gain: Tensor | None) -> list[Tensor]:
    """Returns the weight and, if there is one, the bias of a layer. ``gain`` (C',) multiplies the layer's channels."""
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    if gain is None:
        return tensors
    # (C',) -> (C', 1, ..., 1), with as many dimensions as the tensor
    return [gain.view(-1, *[1] * (tensor.ndim - 1)) * tensor for tensor in tensors]


def _upsample_by_two(layer: nn.ConvTranspose2d, x: Tensor, steps: Sequence[nn.Module]) -> Tensor:
    """Applies a transposed convolution of kernel and stride 2: (B, C, H, W) -> (B, C', 2 H, 2 W).

    With gradients it is one linear layer that makes four positions of one, and a shuffle. The gradient of its weight
    takes a fifth of the time that a transposed convolution takes. On a GPU, the linear layer is also faster without
    gradients.
    """
    plain = not torch.is_grad_enabled() and not is_gpu(x.device)
    # PyTorch checks a trace without gradients, and must see the same operators.
    if plain or torch.jit.is_tracing() or is_exporting():  # type: ignore[attr-defined]
        return layer(_apply(steps, x))
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (C, C', 2, 2) -> (2, 2, C', C) -> (4 C', C)
    bias = [] if layer.bias is None else [layer.bias.repeat(4)]  # (4 C',)
    y = multiply(Pointwise(), x, weight, *bias, steps=steps)  # (B, 4 C', H, W)
    y = y.unflatten(1, (2, 2, -1))  # (B, 2, 2, C', H, W)
    batch, _, _, channels, height, width = y.shape
    y = y.permute(0, 4, 1, 5, 2, 3)  # (B, H, 2, W, 2, C')
    y = y.reshape(batch, 2 * height, 2 * width, channels)
    return y.permute(0, 3, 1, 2)  # (B, C', 2 H, 2 W)


def multiply(product: Product, x: Tensor, *operands: Tensor, steps: Iterable[nn.Module] = ()) -> Tensor:
    """Applies steps to ``x``, then a product, and keeps ``x`` for the backward pass instead of the product's input.

    If one of the steps cannot be recomputed (dropout, synchronised batch norm, a layer with hooks), all steps are
    called, and the product's input is kept.

    Args:
        product: See :class:`xcit_dense.ops.conv.Product`.
        x: Input of the first step.
        *operands: Weights of the product.
        steps: Modules, in the order of their calls.

    Returns:
        ``product(nn.Sequential(*steps)(x), *operands)``.
    """
    steps = [*steps]
    if not torch.is_grad_enabled() or is_traced():
        return product(_apply(steps, x), *operands)
    if is_gpu(x.device):
        # On a GPU, the launches of a recomputation can take more time than the product. So only what needs the most
        # memory is recomputed: the input of a product behind a GELU.
        while steps and plain_type(steps[0]) in (nn.LayerNorm, LayerNorm2d):
            x = steps.pop(0)(x)
        if not steps and isinstance(product, Convolution | Pointwise):
            return product(x, *operands)
    pure_steps = [pure for step in steps if (pure := _pure_step(step, x.device))]
    if len(pure_steps) < len(steps):
        x, steps, pure_steps = _apply(steps, x), [], []
    recompute = partial(_apply_pure_steps, [(function, len(tensors)) for function, tensors in pure_steps])
    of_steps = [tensor for _, tensors in pure_steps for tensor in tensors]
    call = _Call(product, steps, recompute, len(operands))
    return _RecomputedProduct.apply(call, x, *operands, *of_steps)


@dataclass(frozen=True)
class _Call:
    """What :class:`_RecomputedProduct` does, apart from its tensors."""

    product: Product
    steps: Sequence[nn.Module]  # calls of the modules let batch norms record their statistics
    recompute: Callable[..., Tensor]  # the same function of x and the steps' tensors, without side effects
    operands: int  # number of the product's operands


class _RecomputedProduct(torch.autograd.Function):
    """``product(steps(x), *operands)``. Keeps x, the operands and the tensors of the steps for the backward pass."""

    # With a separate setup_context, PyTorch inspects the signature at each call, which takes longer than a small
    # product.
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *tensors: Tensor) -> Tensor:
        """Computes the product. ``tensors`` are the operands, then the tensors of the steps."""
        ctx.call = call
        ctx.save_for_backward(x, *tensors)
        ctx.autocast = autocast_dtype(x.device)
        return call.product(_apply(call.steps, x), *tensors[: call.operands])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, *needs = ctx.needs_input_grad
        autocast = torch.autocast(grad.device.type, ctx.autocast) if ctx.autocast else nullcontext()
        # Gradients are enabled in here if, and only if, somebody differentiates this backward pass again. Batched
        # gradients (``is_grads_batched``) need the operators of autograd too.
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(grad):
            return None, *_differentiable_gradients(ctx.call, ctx.saved_tensors, grad, autocast)
        return None, *_first_order_gradients(ctx.call, ctx.saved_tensors, needs, grad, autocast)


def _first_order_gradients(
    call: _Call, saved: Sequence[Tensor], needs: Sequence[bool], grad: Tensor, autocast: Any
) -> Gradients:
    """Returns the gradients of x, the operands and the tensors of the steps.

    The steps are recomputed with autograd. The product is not recomputed: its ``backward`` method needs only the
    product's input.
    """
    if not call.steps:
        with without_autocast(grad.device):
            return call.product.backward(grad, needs, *saved)
    # Detached tensors: autograd must stop at them, and not continue into the graph of the forward pass.
    x, *tensors = (tensor.detach().requires_grad_(need) for tensor, need in zip(saved, needs))
    operands, of_steps = tensors[: call.operands], tensors[call.operands :]
    with torch.enable_grad(), autocast:
        product_input = call.recompute(x, *of_steps)
    with without_autocast(grad.device):
        product_needs = [product_input.requires_grad, *needs[1 : 1 + call.operands]]
        gradients = call.product.backward(grad, product_needs, product_input.detach(), *operands)
    grad_product_input, *grad_operands = gradients
    grad_x, *grad_of_steps = _gradients(product_input, [x, *of_steps], grad_product_input)
    return grad_x, *grad_operands, *grad_of_steps


def _differentiable_gradients(call: _Call, saved: Sequence[Tensor], grad: Tensor, autocast: Any) -> Gradients:
    """Returns the gradients of :func:`_first_order_gradients`, in a form that autograd can differentiate again.

    The product is recomputed too, because autograd has to see every operation.
    """
    with torch.enable_grad(), autocast:
        # Views: without them, the result would also contain the gradients that reach a tensor through the history of
        # another tensor. Autograd adds these itself.
        inputs = [tensor.view_as(tensor) for tensor in saved]
        x, *tensors = inputs
        operands, of_steps = tensors[: call.operands], tensors[call.operands :]
        output = call.product(call.recompute(x, *of_steps), *operands)
        return _gradients(output, inputs, grad, create_graph=True)


def _gradients(output: Tensor, inputs: Sequence[Tensor], grad: Tensor | None, **options: bool) -> Gradients:
    """Returns the gradients of the inputs that need one, and None for the others."""
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    if not needed or grad is None:
        return (None,) * len(inputs)
    found = iter(torch.autograd.grad(output, needed, grad.to(output.dtype), **options))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


def _pure_step(step: Any, device: torch.device) -> PureStep | None:
    """Returns a step as a function without side effects and the function's tensors, or None."""
    kind = plain_type(step)
    if kind is nn.GELU:
        return partial(F.gelu, approximate=step.approximate), ()
    if kind not in (LayerNorm2d, nn.LayerNorm, nn.BatchNorm2d, SyncBatchNorm):
        return None
    if step.weight is None or step.bias is None:
        return None
    if kind is LayerNorm2d:
        return partial(_layer_norm_2d, step.eps), (step.weight, step.bias)
    if kind is nn.LayerNorm:
        return partial(_layer_norm, step.eps), (step.weight, step.bias)
    if synchronises(step, device):
        return None
    if step.training or step.running_mean is None or step.running_var is None:
        return partial(_batch_norm, step.eps), (step.weight, step.bias)
    return partial(_batch_norm, step.eps), (step.weight, step.bias, step.running_mean, step.running_var)


def _layer_norm(eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def _layer_norm_2d(eps: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
    return _layer_norm(eps, x, weight, bias).permute(0, 3, 1, 2)


def _batch_norm(eps: float, x: Tensor, weight: Tensor, bias: Tensor, *statistics: Tensor) -> Tensor:
    """Applies batch norm with the given mean and variance, or else with the statistics of the batch."""
    mean, variance = statistics or (None, None)
    return F.batch_norm(x, mean, variance, weight, bias, training=not statistics, eps=eps)


def _apply(steps: Iterable[nn.Module], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def _apply_pure_steps(steps: Iterable[tuple[Callable[..., Tensor], int]], x: Tensor, *tensors: Tensor) -> Tensor:
    """Applies functions one after the other. Each takes the result so far and its number of the ``tensors``."""
    rest = list(tensors)
    for function, count in steps:
        x = function(x, *rest[:count])
        rest = rest[count:]
    return x
