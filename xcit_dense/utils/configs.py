"""The configs that xcit_dense ships, and the config in a work directory."""

from __future__ import annotations

from collections import Counter
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
        The path of each config by name. A name is the file's name without ``.py``. If a detector and a segmentor have
        the same name, their names begin with the directory: ``'detection/mask2former_xcit_s12'``.

    Example:
        >>> shipped_configs()["mask_rcnn_xcit_s12"].name
        'mask_rcnn_xcit_s12.py'
    """
    paths = [path for path in sorted(configs_directory().glob("*/*.py")) if path.parent.name != "_base_"]
    counts = Counter(path.stem for path in paths)
    return {path.stem if counts[path.stem] == 1 else _full_name(path): path for path in paths}


def find_shipped(text: str) -> Path | None:
    """Finds a shipped config by its name.

    Args:
        text: A name such as ``'mask_rcnn_xcit_s12'``, ``'mask_rcnn_xcit_s12.py'`` or
            ``'detection/mask_rcnn_xcit_s12.py'``.

    Returns:
        The path of the file, or None if no shipped config has this name.

    Raises:
        UserError: A detector and a segmentor have this name.

    Example:
        >>> find_shipped("sem_fpn_xcit_t12").name
        'sem_fpn_xcit_t12.py'
    """
    name = text.removesuffix(".py")
    found = [path for path in shipped_configs().values() if name in (path.stem, _full_name(path))]
    if len(found) > 1:
        raise UserError(f"{len(found)} shipped configs are called {name}; write {' or '.join(map(_full_name, found))}.")
    return found[0] if found else None


def config_in(directory: Path) -> Path:
    """Finds the config that a training has written into its work directory.

    Args:
        directory: The work directory.

    Raises:
        UserError: The directory has no config, or several.
    """
    found = sorted(directory.glob("*.py"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"No config in {directory}; write the config before it: CONFIG {directory}.")
    raise UserError(
        f"{directory} has {len(found)} configs ({', '.join(path.name for path in found)}); write the one that you mean "
        f"before it, as in {found[0]} {directory}."
    )


def _full_name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"
