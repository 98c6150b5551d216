"""Saved models: one safetensors file has the tensors of a model, and in its header the description of the model.

The description is JSON: a backbone's arguments, or the config, the classes and the figures of a detector or segmentor.
So the file is enough to build the model, and reading it never executes code. ``config.json`` next to the file is
a copy of the description, for people and for the Hugging Face hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.utils.files import atomic_write
from xcit_dense.weights.config_text import read_config_text
from xcit_dense.weights.read import naming
from xcit_dense.weights.safe_load import load_allowed
from xcit_dense.weights.write import save_weights

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"

FORMAT = 1
"""The version of the description. A reader refuses higher versions."""

_ENTRY = "xcit_dense"  # the name of the description in the header


def write_saved(directory: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes ``model.safetensors`` and ``config.json``, each atomically.

    Args:
        directory: The directory, which is created.
        description: Plain values, see :func:`plain`. The format and the version of this package are added.
        weights: The tensors by name.

    Raises:
        UserError: A file cannot be written.

    Example:
        >>> import torch
        >>> write_saved(Path("mine"), {"backbone": {"type": "XCiT"}}, {"weight": torch.zeros(2)})
        >>> read_description(Path("mine/model.safetensors"))["backbone"]
        {'type': 'XCiT'}
    """
    from xcit_dense import __version__

    complete = {"library_name": "xcit_dense", "format": FORMAT, "version": __version__, **description}
    save_weights(weights, directory / WEIGHTS, {_ENTRY: json.dumps(complete)})
    with atomic_write(directory / CONFIG) as part:
        part.write_text(json.dumps(complete, indent=2) + "\n", "utf-8")


def read_description(path: Path) -> dict[str, Any] | None:
    """Reads the description in the header of a safetensors file, without the tensors.

    Args:
        path: A file of weights.

    Returns:
        The description. None if the file does not have one: other libraries write safetensors files too.

    Raises:
        UserError: The description is damaged, or a later version of this package has written it. Or ``config.json``
            next to the file contains something else.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_ENTRY)
    except SafetensorError:
        return None  # reading the tensors gives a complete message
    if text is None:
        return None
    description = _parse(text)
    if description is None or not isinstance(description.get("format"), int):
        raise UserError(f"{path} has a damaged description in its header; copy or download the file again.")
    if description["format"] > FORMAT:
        raise UserError(
            f"{path} has the format {description['format']}, which xcit_dense {description.get('version')} has "
            f"written, and this version reads formats up to {FORMAT}; install a later xcit_dense."
        )
    copy = path.with_name(CONFIG)
    if path.name == WEIGHTS and copy.is_file() and _parse(copy.read_text("utf-8", "replace")) != description:
        raise UserError(
            f"{copy} is not the description in {path.name}, from which the model is built; save the model again with "
            f"the values that you want, or remove {CONFIG}."
        )
    return description


def read_model_config(path: Path) -> dict[str, Any] | None:
    """Reads the config of the detector or segmentor that a file of weights contains. Executes nothing.

    Args:
        path: A saved model, or a checkpoint of a training, which contains the complete config of the training.

    Returns:
        The config. None if the file does not have one.

    Raises:
        UserError: The config is damaged or contains code.
    """
    if not path.is_file():
        return None
    if path.suffix == ".safetensors":
        description = read_description(path)
        if description is None or "config" not in description:
            return None
        text = description["config"]
    else:
        text = _config_of_checkpoint(path)
        if text is None:
            return None
    if not isinstance(text, str):
        raise UserError(f"{path} has a damaged description in its header; copy or download the file again.")
    with naming(path):
        return read_config_text(text)


def _config_of_checkpoint(path: Path) -> str | None:
    """Reads the text of the config in a checkpoint, without the tensors where the format allows it."""
    try:
        content = load_allowed(path, "cpu", mmap=is_zipfile(path))
    except Exception:  # reading the tensors gives a complete message
        return None
    meta = content.get("meta") if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    text = meta.get("cfg") or meta.get("config")  # MMEngine's name, and MMCV's before it
    return text if isinstance(text, str) else None


def short_name(path: Path) -> str:
    """Names a file of weights in one word, for directories and titles.

    Args:
        path: A file of weights.

    Example:
        >>> short_name(Path("runs/cells/model.safetensors")), short_name(Path("runs/cells/epoch_12.pth"))
        ('cells', 'epoch_12')
        >>> short_name(Path("hub/models--me--cells/snapshots/0123abcd/model.safetensors"))
        'cells'
    """
    if path.name != WEIGHTS:
        return path.stem
    parent = path.absolute().parent
    # The cache of the hub: models--USER--REPOSITORY/snapshots/COMMIT/FILE.
    return parent.parents[1].name.rpartition("--")[2] if parent.parent.name == "snapshots" else parent.name


def plain(value: Any) -> Any:
    """Copies a value with the types of JSON.

    Args:
        value: Dictionaries, sequences, numbers (NumPy's too), texts, truth values and None, in any depth.

    Returns:
        The copy. Tuples become lists.

    Raises:
        UserError: There is another type, which JSON does not have.

    Example:
        >>> plain({"strides": (8, 16), "norm": None})
        {'strides': [8, 16], 'norm': None}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if type(value).__module__ == "numpy":
        return plain(value.tolist())
    raise UserError(f"{value!r} of the type {type(value).__name__} cannot be saved as JSON; write plain values.")


def _parse(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
