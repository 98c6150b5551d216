"""Checkpoint files read without executing what a pickle can hold: the one list of what they may hold beside tensors."""

from __future__ import annotations

import argparse
import errno
import math
import re
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch

from xcit_dense.errors import UserError


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
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return load_allowed(path, map_location)
    except Exception as error:  # what torch raises on a file that is no checkpoint depends on its bytes
        text = str(error)
        # Seeking in a file cut short is an invalid argument.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise UserError(f"{path} cannot be read: {text}.") from error
        code = re.search(r"GLOBAL ([\w.]+)|(?:function|but got) <\w+ '?([\w.]+)|(TorchScript)", text)
        if code:
            name = code[code.lastindex or 0]
            raise UserError(
                f"{path} holds more than weights, {name}, and was not executed; give a file of weights alone, as "
                "torch.save(model.state_dict(), path) writes."
            ) from error
        if "torch.cuda.is_available() is False" in text:
            raise UserError(
                f"{path} was saved on a GPU, and PyTorch sees none here; write map_location='cpu'."
            ) from error
        # Not PyTorch's advice to execute the file.
        reason = (text.partition("WeightsUnpickler error: ")[2] or text).partition("\n")[0].split(". ")[0].rstrip(".")
        cause = ": ".join(filter(None, [type(error).__name__, reason]))
        kind = "safetensors file" if path.suffix == ".safetensors" else "checkpoint"
        downloaded = path.parent == download_directory()
        remedy = "delete it, and it is downloaded again" if downloaded else "write, copy or download it again"
        raise UserError(f"{path} is not a {kind}, or was cut short ({cause}); {remedy}.") from error


def download_directory() -> Path:
    """Where downloaded checkpoints lie: torch.hub's directory, that of PyTorch and MMEngine too."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def load_allowed(file: str | Path | IO[bytes], map_location: Any = None, mmap: bool = False) -> Any:
    """``torch.load(weights_only=True)`` that also reads the harmless types of :func:`_allowed`, for this file alone.

    Args:
        file: As for ``torch.load``.
        map_location: As for ``torch.load``.
        mmap: As for ``torch.load``: whether to read tensors only when they are used.

    Returns:
        What was saved.

    Raises:
        UnpicklingError: The file holds something else; nothing of it was executed.
    """
    allowed = _allowed()
    names = {name for _, name in allowed}
    before = torch.serialization.get_safe_globals()
    # What others allowed under these names, NumPy's own types for example, would take the stand-ins' places.
    others = [other for other in before if _global_name(other) not in names]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*others, *allowed])
    try:
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _allowed() -> list[Any]:
    """What published and training checkpoints hold beside tensors, each as a pair of what is made and its pickled name.

    The ImageNet classifiers carry their command line, MMDetection and MMSegmentation palettes and scores in NumPy's
    types, MMEngine the history of the losses. A file may call each of these with any arguments and give it any state,
    so where that could do harm a stand-in takes the place of the original: NumPy trusts what a pickle says about
    memory, and ``getattr`` leads to running code.
    """
    allowed = [
        (argparse.Namespace, "argparse.Namespace"),
        (_history_buffer(), "mmengine.logging.history_buffer.HistoryBuffer"),
        (_get_statistic, "builtins.getattr"),
        (_Dtype, "numpy.dtype"),
        (_Array, "numpy.ndarray"),
    ]
    for core in ("_core", "core"):  # NumPy 2, NumPy 1
        allowed += [(_reconstruct, f"numpy.{core}.multiarray._reconstruct")]
        allowed += [(_scalar, f"numpy.{core}.multiarray.scalar")]
    return allowed


def _global_name(allowed: Any) -> str:
    return allowed[1] if isinstance(allowed, tuple) else f"{allowed.__module__}.{allowed.__qualname__}"


class _Dtype:
    """Takes the place of ``numpy.dtype``: plain numbers only, no objects, records or metadata."""

    dtype: np.dtype[Any]

    def __new__(cls, name: str, align: bool = False, copy: bool = False) -> _Dtype:
        if not (isinstance(name, str) and re.fullmatch(r"[iufc]\d{1,2}|b1|\?", name)):
            raise UnpicklingError(f"GLOBAL numpy.dtype of {name!r}")
        kind = super().__new__(cls)
        kind.dtype = np.dtype(name)
        return kind

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or rest != [None, None, None, -1, -1, 0]:
            raise UnpicklingError("GLOBAL numpy.dtype")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """Takes the place of ``numpy.ndarray``: empty until it gets a state, which is checked."""

    def __new__(cls, *arguments: Any) -> _Array:
        if arguments:
            raise UnpicklingError("GLOBAL numpy.ndarray")
        return super().__new__(cls, 0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        dtype = _plain(kind)
        lengths = isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
        if self.size or not lengths or type(data) is not bytes or math.prod(shape) * dtype.itemsize != len(data):
            raise UnpicklingError("GLOBAL numpy.ndarray")
        checked: Any = 1, shape, dtype, bool(is_fortran), data
        super().__setstate__(checked)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)  # saved again as what it stands for


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise UnpicklingError("GLOBAL numpy.ndarray")
    return _Array()


def _scalar(kind: Any, data: Any) -> Any:
    dtype = _plain(kind)
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise UnpicklingError("GLOBAL numpy.scalar")
    return np.frombuffer(data, dtype)[0]


def _plain(kind: Any) -> np.dtype[Any]:
    if type(kind) is not _Dtype:
        raise UnpicklingError("GLOBAL numpy.dtype")
    return kind.dtype


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
