"""Memory for token maps: RAM for small maps, and files for large maps."""

from __future__ import annotations

import mmap
import os
import tempfile
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.rasters.canvas import check_space

IN_MEMORY = 2**28
"""Bytes up to which all token maps of an image stay in RAM if no directory is named."""


def allocate(count: int, shape: tuple[int, ...], dtype: torch.dtype, directory: Path | None) -> list[Tensor]:
    """Makes tensors on the CPU. Large tensors are views of files, so that they need disk space in place of memory.

    The files have no names. So the operating system removes them when the tensors are not used any more, and also when
    the process is killed.

    Args:
        count: Number of tensors.
        shape: The shape of each tensor.
        dtype: The dtype of each tensor.
        directory: The directory of the files. By default, up to :data:`IN_MEMORY` bytes stay in RAM, and more bytes go
            to the directory for temporary files.

    Returns:
        The tensors, without defined values.

    Raises:
        UserError: The disk does not have enough space, or the directory cannot be used.

    Example:
        >>> import torch
        >>> from xcit_dense.streaming.storage import allocate
        >>> [tensor.shape for tensor in allocate(2, (4, 5, 16), torch.float32, directory=None)]
        [torch.Size([4, 5, 16]), torch.Size([4, 5, 16])]
    """
    size = prod(shape) * dtype.itemsize
    if directory is None and count * size <= IN_MEMORY:
        return [torch.empty(shape, dtype=dtype) for _ in range(count)]
    directory = Path(tempfile.gettempdir()) if directory is None else directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        check_space(directory, count * size)
        return [_map_file(size, directory, dtype).view(shape) for _ in range(count)]
    except OSError as error:
        raise UserError(
            f"The token maps of the image need {format_size(count * size)} in {directory}: "
            f"{error.strerror or error}. Free some space, or name another directory."
        ) from error


def _map_file(size: int, directory: Path, dtype: torch.dtype) -> Tensor:
    with tempfile.TemporaryFile(dir=directory) as file:
        # The space is reserved now, because a write to a map on a full disk would end the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype)


def format_size(size: int) -> str:
    """Writes a number of bytes in words.

    Example:
        >>> from xcit_dense.streaming.storage import format_size
        >>> format_size(2_500_000), format_size(31_400_000_000)
        ('2.5 MB', '31.4 GB')
    """
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
