"""The dtype of products under autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype of a product of ``x``: the dtype of autocast where autocast is on, except for float64.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.autocast import product_dtype
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     product_dtype(torch.ones(1)), product_dtype(torch.ones(1, dtype=torch.float64))
        (torch.bfloat16, torch.float64)
    """
    dtype = autocast_dtype(x.device)
    return x.dtype if dtype is None or x.dtype == torch.float64 else dtype


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context in which a product has the dtype of its operands."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Returns the dtype of autocast on a device, or None where autocast is off. The meta device has no autocast."""
    on = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if on else None
