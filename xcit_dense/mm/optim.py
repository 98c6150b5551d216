"""Mixed precision where the machine has it."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import cuda


@OPTIM_WRAPPERS.register_module(name="AutoAmpOptimWrapper", force=True)
def auto_amp_optim_wrapper(
    loss_scale: Any = "dynamic", dtype: Any = None, use_fsdp: bool = False, **kwargs: Any
) -> OptimWrapper:
    """MMEngine's ``AmpOptimWrapper`` on a GPU; full precision on a machine without one.

    So that one config trains with mixed precision, as published, and still runs on a laptop.

    Args:
        loss_scale: As for ``AmpOptimWrapper``.
        dtype: As for ``AmpOptimWrapper``; by default float16.
        use_fsdp: As for ``AmpOptimWrapper``.
        **kwargs: As for ``OptimWrapper``.
    """
    if cuda.is_available():
        return AmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, use_fsdp=use_fsdp, **kwargs)
    print_log("Mixed precision needs a GPU; training in float32.", logger="current", level=logging.WARNING)
    return OptimWrapper(**kwargs)
