"""Batch norm as a config names it: plain, or synchronised between processes where this is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, distributed, nn

from xcit_dense.errors import UserError, did_you_mean

NormConfig = str | Mapping[str, Any]


class NormLayer(Protocol):
    """A function that makes a normalisation layer for maps of ``num_features`` channels."""

    def __call__(self, num_features: int) -> nn.Module:
        """Makes the layer."""


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes on GPU, and plain batch norm on CPU.

    ``torch.nn.SyncBatchNorm`` raises an error for CPU tensors in distributed training. This class is not a subclass of
    ``torch.nn.SyncBatchNorm``, because DistributedDataParallel refuses every such layer on CPU.
    """

    process_group = None  # all processes
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        """Normalises a map (B, C, H, W) over batch and positions; same shape."""
        if input.device.type == "cpu":
            return super().forward(input)
        return nn.SyncBatchNorm.forward(cast(nn.SyncBatchNorm, self), input)


def synchronises(norm: nn.Module, device: torch.device) -> bool:
    """Whether a norm layer communicates with other processes for maps on this device."""
    if not isinstance(norm, SyncBatchNorm) or not norm.training or device.type == "cpu":
        return False
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def make_norm_layer(norm_cfg: NormConfig) -> NormLayer:
    """Makes the function that makes the norm layers of a model.

    Args:
        norm_cfg: ``'BN'``, ``'SyncBN'``, or a dictionary such as ``dict(type='SyncBN', eps=1e-5, momentum=0.1,
            requires_grad=True)``.

    Returns:
        A function from a number of channels to a layer.

    Raises:
        UserError: The type is unknown, or the layer does not accept an option.

    Example:
        >>> from xcit_dense.ops.norms import make_norm_layer
        >>> norm_layer = make_norm_layer(dict(type="BN", eps=1e-3))
        >>> norm_layer(16)
        BatchNorm2d(16, eps=0.001, momentum=0.1, affine=True, track_running_stats=True)
    """
    if not isinstance(norm_cfg, str | Mapping):
        raise UserError(f"norm_cfg={norm_cfg!r} must be a name or a dictionary; write norm_cfg=dict(type='BN').")
    options: dict[str, Any] = {"type": norm_cfg} if isinstance(norm_cfg, str) else dict(norm_cfg)
    kinds: dict[str, Callable[..., nn.Module]] = {"BN": nn.BatchNorm2d, "BN2d": nn.BatchNorm2d, "SyncBN": SyncBatchNorm}
    name = options.pop("type", None)
    if name not in kinds:
        raise UserError(did_you_mean("norm layer", str(name), kinds))
    requires_grad = options.pop("requires_grad", True)
    make = partial(kinds[name], **options)
    try:
        make(1).eval()(torch.zeros(2, 1, 1, 1))
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"norm_cfg={norm_cfg!r} does not make a {name}: {error}; write norm_cfg=dict(type='BN')."
        ) from error

    def norm_layer(num_features: int) -> nn.Module:
        return make(num_features).requires_grad_(requires_grad)

    return norm_layer
