"""Checks the loops of a config, and the worker processes of its data loaders."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.registry import LOOPS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.arguments import arguments_of
from xcit_dense.mm.config.dataset_class import type_of
from xcit_dense.mm.config.splits import LOADERS

_LENGTHS = {"max_epochs": "epochs", "max_iters": "iterations"}
_TOGETHER = (
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)


def check_loops(config: Config, loaders: tuple[str, ...]) -> None:
    """Checks that the training's loop accepts its settings, and that each loop has all of its parts.

    Args:
        config: A complete config.
        loaders: The data loaders that the run will use.

    Raises:
        UserError: The loop counts iterations and the config gives epochs, or the other way round; the loop has no
            length; or a loop lacks its data, its settings or its evaluator.
    """
    for parts in _TOGETHER:
        if parts[0] not in loaders:
            continue
        present = [part for part in parts if config.get(part) is not None]
        missing = [part for part in parts if part not in present]
        if present and missing:
            raise UserError(
                f"The config has {' and '.join(present)}, but no {' and no '.join(missing)}; set all of "
                f"{', '.join(parts)}, or set all to None."
            )
    settings = config.get("train_cfg")
    if "train_dataloader" not in loaders or not isinstance(settings, dict):
        return
    if "type" in settings:
        kind = type_of(config, settings, LOOPS)
    else:
        kind = LOOPS.get("EpochBasedTrainLoop" if settings.get("by_epoch") else "IterBasedTrainLoop")
    if kind is None:
        raise UserError(
            f"train_cfg.type={settings.get('type')!r} is not registered; write EpochBasedTrainLoop or "
            "IterBasedTrainLoop, or add the module of the type to custom_imports."
        )
    names, is_complete = arguments_of(kind)
    needed = next((name for name in _LENGTHS if name in names), None)
    if needed is None:
        return
    other = next(name for name in _LENGTHS if name != needed)
    if other in settings and other not in names and is_complete:
        raise UserError(
            f"train_cfg.{other} is {settings[other]}, but {kind.__name__} counts {_LENGTHS[needed]}; write "
            f"train_cfg.{needed} instead."
        )
    if needed not in settings:
        raise UserError(f"train_cfg has no {needed}, which is the length of the training; write train_cfg.{needed}=N.")


def settle_workers(config: Config) -> list[str]:
    """Removes settings of worker processes from data loaders that have no worker processes.

    PyTorch refuses ``persistent_workers`` and ``prefetch_factor`` there.

    Args:
        config: A complete config, which is changed.

    Returns:
        A sentence for each change.

    Example:
        >>> config = Config({"train_dataloader": {"num_workers": 0, "persistent_workers": True}})
        >>> settle_workers(config)
        ['train_dataloader.persistent_workers is set to False, because train_dataloader.num_workers is 0.']
        >>> config.train_dataloader.persistent_workers
        False
    """
    changes = []
    for name in LOADERS:
        loader: Any = config.get(name)
        if not isinstance(loader, dict) or loader.get("num_workers"):
            continue
        for key, value in (("persistent_workers", False), ("prefetch_factor", None)):
            if loader.get(key):
                loader[key] = value
                changes.append(f"{name}.{key} is set to {value}, because {name}.num_workers is 0.")
    return changes
