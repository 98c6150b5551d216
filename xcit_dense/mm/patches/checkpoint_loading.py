"""MMEngine's checkpoint loader made safe, and published weights by name.

MMEngine reads what a training saved with ``torch.load``: onedl-mmengine falls back to executing pickled code, and
MMEngine 0.10.7 cannot read its own checkpoints under PyTorch 2.6 and later. Here every file goes through
:mod:`xcit_dense.weights.safe_load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from xcit_dense.mm.distributed import resolve_once, unwrap_model
from xcit_dense.models.state_dict import STEM
from xcit_dense.models.xcit import XCiT
from xcit_dense.weights import zoo
from xcit_dense.weights.read import unwrap
from xcit_dense.weights.safe_load import load_allowed, read_file


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader for files, ``.safetensors`` too.

    Args:
        filename: The file.
        map_location: As for ``torch.load``.

    Returns:
        All that the file holds.

    Raises:
        UserError: As :func:`xcit_dense.weights.safe_load.read_file`.
    """
    return read_file(Path(filename).expanduser(), map_location)


def load_from_http(filename: str, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """MMEngine's loader for http(s), ``xcit://NAME``, ``timm://NAME`` (:func:`xcit_dense.weights.resolve.resolve`).

    Args:
        filename: The address or name, scheme included.
        map_location: As for ``torch.load``.

    Returns:
        All that the file holds.

    Raises:
        UserError: An unknown name, a download that fails, or as :func:`xcit_dense.weights.safe_load.read_file`.
    """
    return read_file(resolve_once(filename), map_location)


def load_state_dict(module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
    """MMEngine's ``load_state_dict``, which also understands the weights of an XCiT alone for a model that holds one.

    Args:
        module: The model.
        state_dict: Entries; where they are those of an XCiT alone, each XCiT inside the model gets them.
        *args: As in MMEngine.
        **kwargs: As in MMEngine.
    """
    parts = unwrap_model(module).named_modules()
    prefixes = [f"{name}." for name, part in parts if name and isinstance(part, XCiT)]
    # A module cannot do this for itself: it is shown nothing but entries that begin with its own name.
    if prefixes and STEM in unwrap(state_dict):
        weights = unwrap(state_dict)
        state_dict = {prefix + name: value for prefix in prefixes for name, value in weights.items()}
    _load_state_dict(module, state_dict, *args, **kwargs)


def _load_safely(file: str | IO[bytes], map_location: Any = None, weights_only: bool | None = None) -> Any:
    return load_allowed(file, map_location)


_load_state_dict = mmengine_checkpoint.load_state_dict
# MMEngine logs what comes after "load_from_" in their names.
CheckpointLoader.register_scheme("", load_from_local, force=True)
CheckpointLoader.register_scheme(["http://", "https://", zoo.SCHEME, zoo.TIMM], load_from_http, force=True)
# The loaders of MMEngine's other schemes call these two by name; MMEngine 0.10.7 has the first alone.
mmengine_checkpoint.load_from_http = load_from_http
mmengine_checkpoint._safe_torch_load = _load_safely
# All of MMEngine's ways to load into a model end in this one, called by name.
mmengine_checkpoint.load_state_dict = load_state_dict
