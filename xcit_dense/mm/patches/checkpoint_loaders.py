"""Replaces the functions that MMEngine's ``CheckpointLoader`` uses for files and for http addresses.

MMEngine reads checkpoints with ``torch.load``. The maintained fork executes the pickled code of a file that
``weights_only=True`` refuses, and MMEngine 0.10.7 cannot read its own checkpoints under PyTorch 2.6 and later
(https://github.com/open-mmlab/mmengine/issues/1655). MMEngine reads addresses with ``torch.hub``, which executes
pickled code too. Here every file and every download goes through :mod:`xcit_dense.weights.safe_load`.

``CheckpointLoader.register_scheme`` is a documented call of MMEngine. It acts on every model of the process, because a
loader does not know the model. ``xcit://``, ``timm://`` and ``hf://`` are new schemes and replace nothing.
"""

from __future__ import annotations

from typing import Any

from mmengine.runner import CheckpointLoader

from xcit_dense.mm.distributed import resolve_once
from xcit_dense.weights import zoo
from xcit_dense.weights.resolve import resolve
from xcit_dense.weights.safe_load import read_file


def install() -> None:
    """Registers the two functions. Repeated calls have no further effect."""
    CheckpointLoader.register_scheme("", load_from_local, force=True)
    CheckpointLoader.register_scheme(["http://", "https://", zoo.SCHEME, zoo.TIMM, zoo.HUB], load_from_http, force=True)


# MMEngine logs the part of the two names after "load_from_".
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Reads a ``.pth`` or ``.safetensors`` file for MMEngine.

    Args:
        filename: The path of the file, or another text without ``://`` that
            :func:`xcit_dense.weights.resolve.resolve` accepts.
        map_location: As for ``torch.load``.

    Returns:
        The content of the file.

    Raises:
        UserError: As for :func:`xcit_dense.weights.resolve.resolve` and
            :func:`xcit_dense.weights.safe_load.read_file`.
    """
    return read_file(resolve(filename), map_location)


def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Downloads and reads a checkpoint for MMEngine.

    Args:
        filename: An http address, ``xcit://NAME``, ``timm://NAME`` or ``hf://USER/REPOSITORY``, as for
            :func:`xcit_dense.weights.resolve.resolve`.
        map_location: As for ``torch.load``.

    Returns:
        The content of the file.

    Raises:
        UserError: As for :func:`xcit_dense.weights.resolve.resolve` and
            :func:`xcit_dense.weights.safe_load.read_file`.
    """
    return read_file(resolve_once(filename), map_location)
