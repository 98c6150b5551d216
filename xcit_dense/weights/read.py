"""Tensors of a checkpoint file, out of whatever wraps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.weights.safe_load import read_file

_WRAPPERS = ("state_dict", "model", "teacher")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.pth`` or ``.safetensors`` file to CPU memory, without executing pickled code.

    Args:
        path: The file.

    Returns:
        Tensors by name, taken out of the ``'state_dict'``, ``'model'`` or ``'teacher'`` they are wrapped in.

    Raises:
        UserError: As :func:`xcit_dense.weights.safe_load.read_file`, or the file holds no dictionary.
    """
    content = read_file(path)
    with naming(path):
        weights = unwrap(content)
    return {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}


def unwrap(content: Any) -> Mapping[str, Any]:
    """The mapping from names to tensors inside what a file holds.

    Args:
        content: What was saved.

    Raises:
        UserError: It is no dictionary.
    """
    opened: list[Any] = []
    while isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            return content
        opened.append(content)
        content = content[wrapper]
        if any(content is outer for outer in opened):
            raise UserError(f"a dictionary that holds itself under {wrapper!r}; give a file of weights.")
    raise UserError(
        f"a checkpoint is a dictionary of tensors, this is a {type(content).__name__}; give a file of weights, as "
        "torch.save(model.state_dict(), path) writes."
    )


@contextmanager
def naming(checkpoint: str | Path) -> Iterator[None]:
    """Puts the name of a checkpoint before the message of a UserError.

    Args:
        checkpoint: The name.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from None
