"""Batch norm as configs choose it: plain, or synchronised over processes where it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor, distributed, nn

from xcit_dense.errors import UserError, did_you_mean

NormConfig = str | Mapping[str, Any]


class NormLayer(Protocol):
    """Makes a normalisation layer for maps of ``num_features`` channels."""

    def __call__(self, num_features: int) -> nn.Module:
        """Makes the layer."""


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes, and over this one alone where it cannot be synchronised.

    ``torch.nn.SyncBatchNorm`` raises on CPU tensors in distributed training; this one is plain batch norm there. It is
    no subclass of that, because DistributedDataParallel refuses any such layer on CPU.
    """

    process_group = None  # all processes
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Tensor) -> Tensor:
        """Normalises a (B, C, H, W) map over batch and positions; same shape."""
        if input.device.type == "cpu":
            return super().forward(input)
        return nn.SyncBatchNorm.forward(cast(nn.SyncBatchNorm, self), input)


def synchronises(norm: nn.Module, device: torch.device) -> bool:
    """Whether a norm layer asks other processes about maps on this device."""
    if not isinstance(norm, SyncBatchNorm) or not norm.training or device.type == "cpu":
        return False
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def make_norm_layer(norm_cfg: NormConfig) -> NormLayer:
    """Reads an MM-style choice of norm layer.

    Args:
        norm_cfg: ``'BN'``, ``'SyncBN'``, or a dictionary such as ``dict(type='SyncBN', eps=1e-5, momentum=0.1,
            requires_grad=True)``.

    Returns:
        A function from a number of channels to a layer.

    Raises:
        UserError: An unknown type, or an option that its layer does not take.
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
        raise UserError(f"norm_cfg={norm_cfg!r} makes no {name}: {error}; write norm_cfg=dict(type='BN').") from error

    def norm_layer(num_features: int) -> nn.Module:
        return make(num_features).requires_grad_(requires_grad)

    return norm_layer
