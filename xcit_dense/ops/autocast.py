"""The dtype of products under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


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
