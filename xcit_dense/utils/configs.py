"""The configs that xcit_dense ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xcit_dense.errors import UserError


@cache
def configs_directory() -> Path:
    """Finds the directory ``configs/``.

    A wheel installs it as ``xcit_dense/.mim/configs``, where OpenMMLab's ``mim`` looks for configs. In a clone it is
    next to the package.

    Raises:
        UserError: Neither directory exists.
    """
    package = Path(__file__).resolve().parents[1]
    for directory in (package / ".mim" / "configs", package.parent / "configs"):
        if (directory / "_base_").is_dir():
            return directory
    raise UserError(f"xcit_dense at {package} has lost its configs; install it again with pip.")


@cache
def shipped_configs() -> dict[str, Path]:
    """Finds all shipped configs.

    Returns:
        The path of each config by name. A name is the file's name without ``.py``.

    Example:
        >>> shipped_configs()["mask_rcnn_xcit_s12"].name
        'mask_rcnn_xcit_s12.py'
    """
    paths = sorted(configs_directory().glob("*/*.py"))
    return {path.stem: path for path in paths if path.parent.name != "_base_"}


def find_shipped(text: str) -> Path | None:
    """Finds a shipped config by its name.

    Args:
        text: A name such as ``'mask_rcnn_xcit_s12'``, ``'mask_rcnn_xcit_s12.py'`` or
            ``'detection/mask_rcnn_xcit_s12.py'``.

    Returns:
        The path of the file, or None if no shipped config has this name.

    Example:
        >>> find_shipped("sem_fpn_xcit_t12").name
        'sem_fpn_xcit_t12.py'
    """
    name = text.removesuffix(".py")
    path = shipped_configs().get(name.rpartition("/")[2])
    if path is None or name not in (path.stem, f"{path.parent.name}/{path.stem}"):
        return None
    return path
