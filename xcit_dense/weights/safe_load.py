"""Reads checkpoint files without executing pickled code.

A pickle may call any function, so PyTorch's ``weights_only=True`` reads every file here. :func:`_allowed` is the one
list of the types that a file may contain in addition to tensors and plain values.
"""

from __future__ import annotations

import argparse
import errno
import math
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch

from xcit_dense.errors import UserError

_lock = threading.RLock()


def read_file(path: str | Path, map_location: Any = "cpu") -> Any:
    """Reads the content of a ``.pth`` or ``.safetensors`` file, without executing pickled code.

    Args:
        path: The file.
        map_location: The device of the tensors, as for ``torch.load``. The tensors of a ``.safetensors`` file are
            always read to the CPU.

    Returns:
        The content: tensors by name for ``.safetensors``, and for other files the object that was saved.

    Raises:
        UserError: The file is missing, damaged or not a checkpoint. Or the file contains more than tensors, plain
            values, NumPy's numbers, a parsed command line and MMEngine's history buffers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No checkpoint at {path}; check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return load_allowed(path, map_location)
    except Exception as error:  # the type of torch's error depends on the bytes of the file
        text = str(error)
        # A seek past the end of a file that was cut short is EINVAL. Other errors come from the disk or the rights.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise UserError(f"{path} cannot be read: {text}.") from error
        code = re.search(r"GLOBAL ([\w.]+)|(?:function|but got) <\w+ '?([\w.]+)|(TorchScript)", text)
        if code:
            name = code[code.lastindex or 0]
            raise UserError(
                f"{path} holds more than weights, {name}, and was not executed; give a file with weights only, as "
                "torch.save(model.state_dict(), path) writes."
            ) from error
        if "torch.cuda.is_available() is False" in text:
            raise UserError(
                f"{path} was saved on a GPU, and PyTorch sees none here; write map_location='cpu'."
            ) from error
        # PyTorch's text goes on with the advice to execute the file. The advice is cut off.
        reason = (text.partition("WeightsUnpickler error: ")[2] or text).partition("\n")[0].split(". ")[0].rstrip(".")
        cause = ": ".join(filter(None, [type(error).__name__, reason]))
        kind = "safetensors file" if path.suffix == ".safetensors" else "checkpoint"
        is_download = path.parent == download_directory()
        remedy = "delete it, and it is downloaded again" if is_download else "write, copy or download it again"
        raise UserError(f"{path} is not a {kind}, or was cut short ({cause}); {remedy}.") from error


def download_directory() -> Path:
    """Returns the directory of downloaded checkpoints, which PyTorch and MMEngine use too (``TORCH_HOME``)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def load_allowed(file: str | Path | IO[bytes], map_location: Any = None, mmap: bool = False) -> Any:
    """Calls ``torch.load(weights_only=True)`` and also allows the types of :func:`_allowed`, for this call.

    Threads may call this function at the same time: one load follows the other.

    Args:
        file: As for ``torch.load``.
        map_location: As for ``torch.load``.
        mmap: As for ``torch.load``: whether the values of tensors are read only when they are used.

    Returns:
        The object that was saved.

    Raises:
        UnpicklingError: The file contains another type. Nothing of the file was executed.
    """
    with _allowing(_allowed()):
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)


@contextmanager
def _allowing(allowed: list[Any]) -> Iterator[None]:
    """Allows PyTorch's unpickler some types inside the context, and undoes exactly this change after it.

    PyTorch keeps one list of allowed types for the process, and ``torch.load`` has no argument for another list. A lock
    keeps the loads of this module apart. Other threads may change PyTorch's list at the same time, so the list is not
    put back as it was: only the entries that were added here are removed, and the entries that were taken out return.
    """
    with _lock:
        before = torch.serialization.get_safe_globals()
        names = {name for _, name in allowed}
        # Entries of other libraries with these names, NumPy's own types for example, would replace the stand-ins.
        replaced = [entry for entry in before if entry not in allowed and _global_name(entry) in names]
        others = torch.serialization.safe_globals(replaced)
        others.__exit__(None, None, None)  # takes the entries out; PyTorch has no other call for it
        try:
            with torch.serialization.safe_globals([entry for entry in allowed if entry not in before]):
                yield
        finally:
            others.__enter__()


def _allowed() -> list[Any]:
    """Lists what checkpoints contain in addition to tensors, as pairs of a function or class and a pickled name.

    The ImageNet classifiers contain their command line. Checkpoints of MMDetection and MMSegmentation contain palettes
    and scores in NumPy's types, and MMEngine's contain the history of the losses. A file may call each entry with any
    arguments and give the result any state. So where that could do harm, a stand-in replaces the original: NumPy
    trusts what a pickle claims about memory, and ``getattr`` gives access to functions that execute code.
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
    """The stand-in for ``numpy.dtype``. It allows plain numbers, and refuses objects, records and metadata."""

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
    """The stand-in for ``numpy.ndarray``. The array is empty until it gets a state, and the state is checked."""

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
        return np.asarray(self).__reduce_ex__(protocol)  # saved again as NumPy's own array


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
    """The stand-in for MMEngine's history buffer in a process without MMEngine."""


def _history_buffer() -> Any:
    module = sys.modules.get("mmengine.logging.history_buffer")
    return module.HistoryBuffer if module else _HistoryBuffer


def _get_statistic(owner: Any, name: str) -> Any:
    """The stand-in for ``getattr``. It returns the four methods that history buffers name, and nothing else."""
    if owner is not _history_buffer() or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError("GLOBAL builtins.getattr")
    return getattr(owner, name, None)
