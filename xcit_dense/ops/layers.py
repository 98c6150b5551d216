"""Plain layers: the layers whose output follows from only the layer's type and weights.

A fast path computes with the weights of a layer and does not call the layer. The fast path has the same result only if
a call of the layer would run nothing else: no hook, no parametrization, no method of a subclass, no operator of a
tensor subclass. :func:`plain_type` checks this. Every layer that is not plain must be called as a module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules import module as torch_module
from torch.utils.module_tracker import ModuleTracker

# torch.export traces with fake tensors in place of the weights. They behave like plain tensors.
_PLAIN_TENSORS = frozenset((nn.Parameter, Tensor, type(None), FakeTensor))


def plain_type(layer: nn.Module) -> type[nn.Module] | None:
    """Returns the type of a plain layer, and None for every other module.

    A layer is plain if it has no forward or backward hook and no ``forward`` method of its own instance, and if each of
    its own parameters and buffers is exactly a ``Parameter`` or a ``Tensor``. Compare the result with ``is``: a
    subclass and a parametrized layer have another type.

    Args:
        layer: Any module. Modules inside ``layer`` are not checked.

    Example:
        >>> from torch import nn
        >>> from xcit_dense.ops.layers import plain_type
        >>> layer = nn.Linear(2, 3)
        >>> plain_type(layer) is nn.Linear
        True
        >>> handle = layer.register_forward_hook(lambda module, inputs, output: None)
        >>> plain_type(layer) is None
        True
    """
    # These are the dictionaries that nn.Module reads when it is called. PyTorch has no public name for them.
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return None
    if "forward" in layer.__dict__ or _has_global_hooks():
        return None
    for tensor in layer._parameters.values():
        if type(tensor) not in _PLAIN_TENSORS:
            return None
    for buffer in layer._buffers.values():
        if type(buffer) not in _PLAIN_TENSORS:
            return None
    return type(layer)


def _has_global_hooks() -> bool:
    """Whether any hook is registered for the modules of the process.

    The hooks of :class:`ModuleTracker` do not count. They only record names, for PyTorch's ``FlopCounterMode``, which
    has to count the operations that the model does without the counter.
    """
    forward, before_forward = torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks
    if torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks:
        return True
    if not forward and not before_forward:
        return False
    hooks = [*forward.values(), *before_forward.values()]
    return not all(isinstance(getattr(hook, "__self__", None), ModuleTracker) for hook in hooks)


def floating_weight(module: nn.Module) -> Tensor:
    """Returns one floating-point weight of a module, whose dtype and device are the dtype and device of the module.

    The function also answers for a wrapped or quantized layer, which may not have a tensor named ``weight``. A module
    without floating-point weights gets an empty tensor of the default dtype on the default device.
    """
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter
    for layer in module.modules():  # in a replica of nn.DataParallel, weights are not parameters
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return weight
    return torch.empty(0)
