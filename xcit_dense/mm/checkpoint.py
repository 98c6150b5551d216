"""MMEngine's checkpoint loader made safe, and published weights by name.

MMEngine reads what a training saved with ``torch.load``: onedl-mmengine falls back to executing pickled code, and
MMEngine 0.10.7 cannot read its own checkpoints under PyTorch 2.6 and later. Here every file goes through
:mod:`xcit_dense.safe_load`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from mmengine import dist
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from .. import zoo
from ..checkpoint import STEM, about, unwrap
from ..safe_load import load_allowed, read_file


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader for files, ``.safetensors`` too.

    Args:
        filename: The file.
        map_location: As for ``torch.load``.

    Returns:
        All that the file holds.

    Raises:
        UserError: As :func:`xcit_dense.safe_load.read_file`.
    """
    return read_file(Path(filename).expanduser(), map_location)


def load_from_http(filename: str, map_location: Any = None, *_: Any, **__: Any) -> Any:
    """MMEngine's loader for http(s) addresses; a file is downloaded once, see :func:`xcit_dense.zoo.locate`.

    Args:
        filename: The address.
        map_location: As for ``torch.load``.

    Returns:
        All that the file holds.

    Raises:
        UserError: The download fails, or as :func:`xcit_dense.safe_load.read_file`.
    """
    return read_file(locate_once(filename), map_location)


def load_from_zoo(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader for ``xcit://NAME`` and ``timm://NAME``, for ``load_from`` and ``load_checkpoint`` alike.

    Args:
        filename: The name, scheme included.
        map_location: As for ``torch.load``.

    Returns:
        A detector's or segmentor's file as it is; of a backbone alone its weights under ``'state_dict'``, named as in
        a detector or segmentor, which a bare backbone understands too.

    Raises:
        UserError: An unknown name, or a download that fails.
    """
    content = load_from_http(filename, map_location)
    with about(filename):
        weights = unwrap(content)
    if STEM not in weights:
        return content
    return {"state_dict": {f"backbone.{name}": value for name, value in weights.items()}}


def locate_once(checkpoint: str) -> Path:
    """:func:`xcit_dense.zoo.locate` for a run of several processes: one of each machine downloads, the others wait.

    Args:
        checkpoint: As for :func:`xcit_dense.zoo.locate`.

    Returns:
        The path of the file.

    Raises:
        UserError: As :func:`xcit_dense.zoo.locate`.
    """
    # Not dist.get_local_rank(), which wants a process group that MMEngine's runner does not make.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        zoo.locate(checkpoint)
    dist.barrier()
    return zoo.locate(checkpoint)


def _load_safely(file: str | IO[bytes], map_location: Any = None, weights_only: bool | None = None) -> Any:
    return load_allowed(file, map_location)


# MMEngine logs what comes after "load_from_" in their names.
CheckpointLoader.register_scheme("", load_from_local, force=True)
CheckpointLoader.register_scheme(["http://", "https://"], load_from_http, force=True)
CheckpointLoader.register_scheme([zoo.SCHEME, zoo.TIMM], load_from_zoo, force=True)
# The loaders of MMEngine's other schemes call these two by name; MMEngine 0.10.7 has the first alone.
mmengine_checkpoint.load_from_http = load_from_http
mmengine_checkpoint._safe_torch_load = _load_safely
