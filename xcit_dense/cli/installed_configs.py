"""The configs of the installed MMDetection and MMSegmentation, found by name."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from xcit_dense.cli.shipped_configs import find_config
from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.utils.configs import configs_directory, find_shipped, shipped_configs

LIBRARIES = ("mmdet", "mmseg")


@cache
def library_configs(library: str) -> dict[str, Path]:
    """Finds the configs of an installed library.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``.

    Returns:
        The path of each config by name. A name has the family: ``'detr/detr_r50_8xb2-150e_coco.py'``. Empty if the
        library is not installed.
    """
    directory = _directory(library)
    if directory is None:
        return {}
    paths = sorted(directory.glob("*/*.py"))
    return {path.relative_to(directory).as_posix(): path for path in paths if path.parent.name != "_base_"}


def _directory(library: str) -> Path | None:
    spec = find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], ".mim", "configs")


def find_any_config(text: str) -> Path:
    """Finds a config by its path, a shipped config by its name, or a config of MMDetection or MMSegmentation.

    Args:
        text: A path, or a name with or without ``.py`` and with or without the family:
            ``'detr/detr_r50_8xb2-150e_coco'``, ``'detr_r50_8xb2-150e_coco.py'``.

    Returns:
        The path of the file.

    Raises:
        UserError: No config or more than one config has this name.
    """
    if Path(text).exists() or find_shipped(text) is not None:
        return find_config(text)
    name = text.removesuffix(".py") + ".py"
    known = [item for library in LIBRARIES for item in library_configs(library).items()]
    found = [path for key, path in known if name in (key, path.name)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{path.parent.name}/{path.stem}" for path in found)
        raise UserError(f"{text} is the name of {len(found)} configs; write {choices}.")
    names = [*shipped_configs(), *sorted({path.stem for _, path in known})]
    raise UserError(f"No config at {text}. {did_you_mean('config', Path(name).stem, names)}")


def base_of(path: Path, directory: Path) -> str:
    """Returns the text by which a config in a directory inherits from another config.

    Args:
        path: The config to inherit from.
        directory: The directory of the config that inherits.

    Returns:
        ``LIBRARY::NAME`` for a config of an installed library that MMEngine finds, and otherwise the path of the
        config. A config of the user's own has a relative path.
    """
    for library in LIBRARIES:
        for name, known in library_configs(library).items():
            if path == known:
                return f"{library}::{name}" if _is_known_to_mmengine(library) else path.resolve().as_posix()
    return Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()


def _is_known_to_mmengine(library: str) -> bool:
    """Returns whether MMEngine finds the configs of a library by ``LIBRARY::NAME``.

    onedl-mmengine looks for a distribution called mmsegmentation, but its fork is called onedl-mmsegmentation.
    """
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed

    return bool(is_installed(MODULE2PACKAGE[library]))


def is_shipped(path: Path) -> bool:
    """Returns whether a config is one that xcit_dense ships."""
    return path.resolve().is_relative_to(configs_directory().resolve())
