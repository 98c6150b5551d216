"""Layers of necks and heads as maps, and the refusal of what cannot be computed window by window."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmcv.cnn import ConvModule

from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.winograd_conv import WinogradConv2d
from xcit_dense.streaming.maps import Apply, Map, Normalise

SUMMED_TILE = 128
"""Positions along each side of the windows from which a complete map is summed."""

_CONVOLUTIONS = (nn.Conv2d, WinogradConv2d)
_ACTIVATIONS = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.ELU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Identity),
)
"""Activations that compute each number from only this number."""


class NeedsCompleteMapError(Exception):
    """A part of a model cannot be computed by windows. The message names the part and the reason."""


def refuse(name: str, why: str) -> NoReturn:
    """Raises the error for a part that cannot be computed by windows.

    Args:
        name: The name of the part in the model.
        why: What the part is or has, as the words that follow the name.

    Raises:
        NeedsCompleteMapError: Always.
    """
    raise NeedsCompleteMapError(f"{name} {why}")


def describe(module: nn.Module) -> str:
    """Describes a module that is refused, as the words that follow its name."""
    if plain_type(module) is None:
        return f"is a {type(module).__name__} with a hook or a parametrized weight"
    return f"is a {type(module).__name__}"


def convolve(name: str, layer: Any, x: Map) -> Map:
    """Applies a ``ConvModule`` that keeps the size of the map.

    A batch norm in training mode becomes a :class:`xcit_dense.streaming.maps.Normalise`.

    Args:
        name: The name of the module in the model.
        layer: The ``ConvModule``.
        x: The map.

    Returns:
        The map of the outputs.

    Raises:
        NeedsCompleteMapError: The module is another one, changes the size, or needs the complete map.
    """
    if plain_type(layer) is not ConvModule:
        refuse(name, describe(layer))
    conv = layer.conv
    if plain_type(conv) not in _CONVOLUTIONS or layer.with_spectral_norm:
        refuse(f"{name}.conv", describe(conv))
    reach = [dilation * (side // 2) for dilation, side in zip(conv.dilation, conv.kernel_size)]
    if (
        layer.with_explicit_padding
        or conv.padding_mode != "zeros"
        or conv.stride != (1, 1)
        or any(side % 2 == 0 for side in conv.kernel_size)
        or tuple(reach) != tuple(conv.padding)
    ):
        refuse(f"{name}.conv", "changes the size of the map, or is not padded with zeros")
    if layer.with_norm:
        check_norm(f"{name}.{layer.norm_name}", layer.norm)
    if layer.with_activation and plain_type(layer.activate) not in _ACTIVATIONS:
        refuse(f"{name}.activate", describe(layer.activate))
    if not layer.with_norm or not layer.norm.training or plain_type(layer.norm) is nn.Identity:
        return Apply(x, layer, conv.out_channels, halo=max(reach))
    if layer.order != ("conv", "norm", "act"):
        refuse(name, f"has order={layer.order}")
    y: Map = Normalise(Apply(x, conv, conv.out_channels, halo=max(reach)), layer.norm)
    return Apply(y, layer.activate, y.channels) if layer.with_activation else y


def check_norm(name: str, norm: nn.Module) -> None:
    """Checks that a norm is a batch norm.

    Args:
        name: The name of the norm in the model.
        norm: The norm.

    Raises:
        NeedsCompleteMapError: The norm is another one, or always needs the complete map.
    """
    if plain_type(norm) is nn.Identity:  # deploy has made the batch norm a part of the convolution
        return
    if plain_type(norm) is None or not isinstance(norm, _BatchNorm):
        refuse(name, f"{describe(norm)} and needs the complete map")
    if not norm.training and norm.running_mean is None:
        refuse(name, "does not have running statistics and needs the complete map")
