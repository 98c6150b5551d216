"""Writes tensors to ``.safetensors`` and ``.pth`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from xcit_dense.utils import files


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes tensors to a file, atomically.

    Args:
        weights: Tensors by name. They may share memory or be views; the file contains a copy of each.
        path: A ``.safetensors`` or ``.pth`` file. Its directory is created.
        metadata: Texts by name for the header of a ``.safetensors`` file. A ``.pth`` file does not have a header.

    Raises:
        UserError: The file cannot be written.
    """
    own = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in weights.items()}
    with files.atomic_write(path) as part:
        try:
            if path.suffix == ".safetensors":
                save_file(own, part, {"format": "pt", **metadata})
            else:
                with part.open("wb") as file:
                    torch.save(own, file)
        except (RuntimeError, SafetensorError) as error:  # both libraries raise these on a full disk
            raise OSError(error.__context__ or error) from error
