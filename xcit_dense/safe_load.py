"""Checkpoint files read without executing what a pickle can hold: the one list of what they may hold beside tensors."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch

from .errors import UserError


def read_file(path: str | Path, map_location: Any = "cpu") -> Any:
    """Reads all that a ``.pth`` or ``.safetensors`` file holds, without executing pickled code.

    Args:
        path: The file.
        map_location: Where the tensors go, as for ``torch.load``; those of a ``.safetensors`` file come to the CPU.

    Returns:
        The content: for ``.safetensors`` tensors by name, else whatever was saved.

    Raises:
        UserError: No such file, not a checkpoint, or one that holds more than tensors, plain values, NumPy's numbers,
            a parsed command line and MMEngine's history buffers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No checkpoint at {path}; check the path.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file, or was cut short: {error}.") from error
    try:
        return load_allowed(path, map_location)
    except Exception as error:  # what torch raises on a file that is no checkpoint depends on its bytes
        code = re.search(r"GLOBAL ([\w.]+)|(?:function|but got) <\w+ '?([\w.]+)", str(error))
        if code:
            raise UserError(
                f"{path} holds more than weights, {code[1] or code[2]}, and was not executed; give a file of weights "
                "alone, as torch.save(model.state_dict(), path) writes."
            ) from error
        raise UserError(f"{path} is not a checkpoint, or was cut short ({type(error).__name__}).") from error


def load_allowed(file: str | Path | IO[bytes], map_location: Any = None) -> Any:
    """``torch.load(weights_only=True)`` that also reads the harmless types of :func:`_allowed`, for this file alone.

    Args:
        file: As for ``torch.load``.
        map_location: As for ``torch.load``.

    Returns:
        What was saved.

    Raises:
        UnpicklingError: The file holds something else; nothing of it was executed.
    """
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([pair for pair in _allowed() if pair not in before]):
        return torch.load(file, map_location=map_location, weights_only=True)


def _allowed() -> list[Any]:
    """What published and training checkpoints hold beside tensors, each as a pair of what is made and its pickled name.

    The ImageNet classifiers carry their command line, MMDetection and MMSegmentation palettes and scores in NumPy's
    types, MMEngine the history of the losses. None of these runs a file's code. Object and structured arrays are not
    among them: NumPy trusts what their pickles say about memory.
    """
    numbers = np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"
    kinds = {argparse.Namespace, np.ndarray, np.dtype, *(type(np.dtype(number)) for number in numbers)}
    allowed: list[Any] = [(kind, f"{kind.__module__}.{kind.__qualname__}") for kind in kinds]
    makers = {"_reconstruct": np.array(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    for core in ("_core", "core"):  # NumPy 2, NumPy 1
        allowed += [(maker, f"numpy.{core}.multiarray.{name}") for name, maker in makers.items()]
    allowed.append((_history_buffer(), "mmengine.logging.history_buffer.HistoryBuffer"))
    allowed.append((_get_statistic, "builtins.getattr"))
    return allowed


class _HistoryBuffer:
    """Takes the place of MMEngine's history buffer in a process without MMEngine."""


def _history_buffer() -> Any:
    module = sys.modules.get("mmengine.logging.history_buffer")
    return module.HistoryBuffer if module else _HistoryBuffer


def _get_statistic(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, which leads from any object to running code: history buffers name their methods."""
    if owner is not _history_buffer() or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError("GLOBAL builtins.getattr")
    return getattr(owner, name, None)
