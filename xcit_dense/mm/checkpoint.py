"""MM checkpoints under PyTorch's safe loader, and published weights by name in ``load_from``."""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader

from .. import zoo
from ..checkpoint import read_weights


def allow_training_state() -> None:
    """Lets ``torch.load(weights_only=True)`` read what MMEngine keeps beside the weights.

    MMEngine 0.10.7 cannot load its own checkpoints under PyTorch 2.6 and later without this: the message hub holds
    history buffers made of NumPy arrays and scalars, and ``getattr(HistoryBuffer, 'mean')`` and its like. None of what
    is allowed here executes a file's code.
    """
    numbers = (np.float64, np.float32, np.int64, np.int32, np.uint32, np.bool_)
    kinds = (HistoryBuffer, np.ndarray, np.dtype, *(type(np.dtype(number)) for number in numbers))
    allowed: list[Any] = [(kind, f"{kind.__module__}.{kind.__qualname__}") for kind in kinds]
    makers = {"_reconstruct": np.array(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    for core in ("_core", "core"):  # NumPy 2, NumPy 1
        allowed += [(maker, f"numpy.{core}.multiarray.{name}") for name, maker in makers.items()]
    allowed.append((_get_statistic, "builtins.getattr"))
    # Pairs: onedl-mmengine allows bare types for a load, and withdraws them after it.
    torch.serialization.add_safe_globals(allowed)


def _get_statistic(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, which leads from any object to running code."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError(f"getattr of {name!r} is not allowed in a checkpoint")
    return getattr(owner, name)


def load_by_name(filename: str, map_location: Any = None) -> dict[str, Any]:
    """MMEngine's loader for ``xcit://NAME``, for ``load_from`` and ``load_checkpoint`` alike.

    Args:
        filename: The name, scheme included.
        map_location: Not needed: tensors come on the CPU.

    Returns:
        The weights under ``'state_dict'``, named as in a detector or segmentor; a bare backbone understands that too.

    Raises:
        UserError: An unknown name, or a download that fails.
    """
    weights = read_weights(zoo.locate(filename))
    return {"state_dict": {f"backbone.{name}": value for name, value in weights.items()}}


allow_training_state()
CheckpointLoader.register_scheme(prefixes=zoo.SCHEME, loader=load_by_name, force=True)
