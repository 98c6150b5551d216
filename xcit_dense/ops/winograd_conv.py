"""A convolution layer that multiplies less on the CPU, and the exchange of a model's layers for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xcit_dense.ops import winograd
from xcit_dense.ops.autocast import product_dtype
from xcit_dense.ops.conv import Convolution
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.recompute import multiply


class WinogradConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a kernel of 3 x 3 and stride 1. Large maps in fp32 on the CPU take half of the time.

    Arguments, parameters, outputs and gradients are those of ``nn.Conv2d``, except for rounding
    (:mod:`xcit_dense.ops.winograd`). :func:`use_winograd` makes layers of this type.
    """

    # The transformed weight, or None. Inference with the same weight at each call does not transform it again.
    kernel: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        kernel = None if torch.is_grad_enabled() else self.kernel
        if kernel is not None and winograd.is_faster(x, self.weight, (1, 1), (1, 1), product_dtype(x)):
            return winograd.convolve(x, kernel, self.bias)
        operands = [self.weight] if self.bias is None else [self.weight, self.bias]
        return multiply(Convolution(padding=(1, 1)), x, *operands)

    def prepare_inference(self) -> None:
        """Keeps the transformed weight. New weights by ``load_state_dict`` drop it."""
        self.kernel = winograd.transform_kernel(self.weight.detach())

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.kernel = None
        super()._load_from_state_dict(*args, **options)


def use_winograd(model: nn.Module) -> list[WinogradConv2d]:
    """Exchanges the type of the convolutions in a model for :class:`WinogradConv2d`, where it is faster.

    Parameters keep their names and values, so that optimizers, checkpoints and wrappers of the model do not notice.
    Layers with hooks or parametrizations, and layers of other types than ``nn.Conv2d``, are left as they are.

    Args:
        model: Any model. The model is changed in place.

    Returns:
        The layers of this type in the model.

    Example:
        >>> from torch import nn
        >>> from xcit_dense.ops.winograd_conv import use_winograd
        >>> model = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 256, 1))
        >>> len(use_winograd(model))
        1
    """
    layers = []
    for layer in model.modules():
        if plain_type(layer) is nn.Conv2d and _is_supported(layer):
            layer.__class__ = WinogradConv2d
            layer.register_buffer("kernel", None, persistent=False)
        if isinstance(layer, WinogradConv2d):
            layers.append(layer)
    return layers


def _is_supported(layer: Any) -> bool:
    if layer.kernel_size != (3, 3) or layer.stride != (1, 1) or layer.padding != (1, 1):
        return False
    if layer.dilation != (1, 1) or layer.groups != 1 or layer.padding_mode != "zeros":
        return False
    return min(layer.in_channels, layer.out_channels) >= winograd.FEWEST_CHANNELS
