"""MM checkpoints under PyTorch's safe loader, and published weights by name in ``load_from``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader

from .. import zoo
from ..checkpoint import read_weights


def allow_training_state() -> None:
    """Lets ``torch.load(weights_only=True)`` read what MMEngine keeps beside the weights.

    MMEngine 0.10.7 cannot resume its own checkpoints under PyTorch 2.6 and later without this: the message hub holds
    history buffers made of NumPy arrays and scalars. None of these types executes code.
    """
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.uint32, np.bool_)}
    reconstruct = np.array(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    torch.serialization.add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, reconstruct, scalar, *kinds])


def load_by_name(filename: str, map_location: Any = None) -> dict[str, Any]:
    """MMEngine's loader for ``xcit://NAME``.

    Args:
        filename: The name, scheme included.
        map_location: Not needed: tensors come on the CPU.

    Returns:
        The weights under ``'state_dict'``.

    Raises:
        UserError: An unknown name, or a download that fails.
    """
    return {"state_dict": read_weights(zoo.locate(filename))}


allow_training_state()
CheckpointLoader.register_scheme(prefixes=zoo.SCHEME, loader=load_by_name, force=True)
