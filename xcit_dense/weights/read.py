"""Takes the tensors of a checkpoint out of the dictionaries that wrap them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.weights.safe_load import read_file

SUFFIXES = (".pth", ".safetensors", ".bin", ".pt")
"""The usual suffixes of files of weights."""

_WRAPPERS = ("state_dict", "model", "teacher")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.pth`` or ``.safetensors`` file to CPU memory, without executing pickled code.

    Args:
        path: The file.

    Returns:
        The tensors by name, taken out of the entries ``'state_dict'``, ``'model'`` and ``'teacher'``.

    Raises:
        UserError: As for :func:`xcit_dense.weights.safe_load.read_file`, or the file does not contain a dictionary.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "a.pth")
        >>> torch.save({"model": {"weight": torch.zeros(2, 3)}, "epoch": 1}, path)
        >>> {name: tuple(value.shape) for name, value in read_weights(path).items()}
        {'weight': (2, 3)}
    """
    content = read_file(path)
    with naming(path):
        weights = unwrap(content)
    return {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}


def unwrap(content: Any) -> Mapping[str, Any]:
    """Finds the mapping from names to tensors inside the content of a file.

    Args:
        content: The object that was saved.

    Returns:
        The innermost dictionary under the names ``'state_dict'``, ``'model'`` and ``'teacher'``.

    Raises:
        UserError: The content is not a dictionary.
    """
    opened: list[Any] = []
    while isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            return content
        opened.append(content)
        content = content[wrapper]
        if any(content is outer for outer in opened):
            raise UserError(f"a dictionary that contains itself under {wrapper!r}; give a file of weights.")
    raise UserError(
        f"a checkpoint is a dictionary of tensors, this is a {type(content).__name__}; give a file of weights, as "
        "torch.save(model.state_dict(), path) writes."
    )


@contextmanager
def naming(checkpoint: str | Path) -> Iterator[None]:
    """Puts the name of a checkpoint before the message of a UserError that is raised inside the context.

    Args:
        checkpoint: The name.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from None
