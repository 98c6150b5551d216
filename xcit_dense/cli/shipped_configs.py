"""The configs that xcit_dense ships: finds them by name, and copies them."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.utils.configs import config_in, configs_directory, find_shipped, shipped_configs

SUFFIXES = (".py", ".json", ".yaml", ".yml")
"""Endings of config files that MMEngine reads."""


def is_config(text: str) -> bool:
    """Decides whether an argument of the command line means a config.

    Args:
        text: The argument.

    Returns:
        True if the text ends as a config file does, or is the name of a shipped config.

    Example:
        >>> is_config("my/own.py"), is_config("mask_rcnn_xcit_s12"), is_config("work_dirs/mine")
        (True, True, False)
    """
    return text.endswith(SUFFIXES) or find_shipped(text) is not None


def find_config(text: str | Path) -> Path:
    """Finds a config by its path, or a shipped config by its name.

    Args:
        text: A path, or a name such as ``'mask_rcnn_xcit_s12'``, ``'mask_rcnn_xcit_s12.py'`` or
            ``'detection/mask_rcnn_xcit_s12.py'``. An existing file wins over a name.

    Returns:
        The path of the file.

    Raises:
        UserError: No file has this path and no shipped config has this name. The message lists the nearest names. Or
            two configs have this name.

    Example:
        >>> find_config("sem_fpn_xcit_t12").name
        'sem_fpn_xcit_t12.py'
    """
    path = Path(text)
    if path.is_file():
        return path
    shipped = find_shipped(str(text))
    if shipped is not None:
        return shipped
    if path.is_dir():
        return config_in(path)
    raise UserError(f"No config at {text}. {did_you_mean('shipped config', path.stem, shipped_configs())}")


def copy_config(config: Path, directory: Path) -> list[Path]:
    """Copies a config and the files that it inherits from.

    The files keep their places relative to each other, so the copy works at once. Shipped configs go to ``configs/`` in
    ``directory``.

    Args:
        config: The config's file.
        directory: Where to copy.

    Returns:
        The copies, the config's own first.

    Raises:
        UserError: A file with other content is in the way, or a file that the config inherits from is missing.
    """
    files = list(dict.fromkeys(_with_bases(config.resolve())))
    shipped = configs_directory().resolve()
    if all(file.is_relative_to(shipped) for file in files):
        root = shipped.parent
    else:
        root = Path(os.path.commonpath([file.parent for file in files]))
    copies = {file: directory / file.relative_to(root) for file in files}
    for file, copy in copies.items():
        if copy.exists() and copy.read_bytes() != file.read_bytes():
            raise UserError(f"{copy} exists and has other content; name another directory after --copy.")
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copyfile(file, copy)
    return list(copies.values())


def _with_bases(config: Path) -> Iterator[Path]:
    """The config, then the files that it names as ``_base_``, and so on."""
    if not config.is_file():
        raise UserError(f"No config at {config}, which another config inherits from.")
    yield config
    if config.suffix != ".py":
        return
    for statement in ast.parse(config.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_base_":
            bases = ast.literal_eval(statement.value)
            for base in [bases] if isinstance(bases, str) else bases:
                if "::" not in base:  # a config of another package
                    yield from _with_bases((config.parent / base).resolve())
