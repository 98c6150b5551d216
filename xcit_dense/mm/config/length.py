"""The length of a training, with everything in a config that depends on the length."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from xcit_dense.errors import UserError
from xcit_dense.mm.config.walk import as_list

_NAMES = {"epochs": "max_epochs", "iterations": "max_iters"}
_PLACES = ("begin", "end", "T_max", "milestones")


def set_length(config: Config, epochs: int | None = None, iterations: int | None = None) -> None:
    """Sets the length of the training, and scales the learning rate's schedule with it.

    What the config counts in the same unit keeps its share of the training: the beginnings, ends and milestones of the
    schedule. A part of the schedule that would be shorter than two steps is left out. The last validation and the last
    checkpoint come at the end at the latest. A warm-up in iterations stays as it is if the training counts epochs.

    Args:
        config: A complete config, which is changed.
        epochs: The number of epochs. None leaves the config as it is.
        iterations: The number of iterations, instead of epochs.

    Raises:
        UserError: The number is not positive, or the config counts the other unit.

    Example:
        >>> config = Config({"train_cfg": {"max_epochs": 12, "val_interval": 1}})
        >>> config.param_scheduler = [{"type": "MultiStepLR", "end": 12, "milestones": [8, 11]}]
        >>> set_length(config, epochs=24)
        >>> config.param_scheduler[0].milestones, config.train_cfg.max_epochs
        ([16, 22], 24)
    """
    if epochs is not None and iterations is not None:
        raise UserError("--epochs and --iterations exclude each other; write one of them.")
    for unit, length in (("epochs", epochs), ("iterations", iterations)):
        if length is not None:
            _set_length(config, unit, length)


def _set_length(config: Config, unit: str, length: int) -> None:
    if length < 1:
        raise UserError(f"--{unit} {length} is not a length; write 1 or more.")
    settings: Any = config.get("train_cfg") or {}
    name = _NAMES[unit]
    old = settings.get(name)
    if not isinstance(old, int) or old < 1:
        other = next(one for one in _NAMES if one != unit)
        raise UserError(f"--{unit} {length}, but the config counts its training in {other}; write --{other} N.")
    settings[name] = length
    if "val_interval" in settings:
        settings.val_interval = min(settings.val_interval, length)
    if "dynamic_intervals" in settings:
        settings.dynamic_intervals = [(_scale(at, old, length), every) for at, every in settings.dynamic_intervals]
    counts_epochs = unit == "epochs"
    schedulers = as_list(config.get("param_scheduler"))
    for scheduler in [*schedulers]:
        if scheduler.get("by_epoch", True) != counts_epochs:
            continue
        for place in _PLACES:
            if scheduler.get(place) is not None:
                scheduler[place] = _scale(scheduler[place], old, length)
        # A warm-up of a single step would leave the rate at its start.
        if scheduler.get("end", length) - scheduler.get("begin", 0) < 2:
            schedulers.remove(scheduler)
    if "param_scheduler" in config:
        config.param_scheduler = schedulers
    for hook in config.get("custom_hooks") or []:
        if counts_epochs and hook.get("switch_epoch") is not None:  # MMDetection's PipelineSwitchHook
            hook.switch_epoch = _scale(hook.switch_epoch, old, length)
    saving = (config.get("default_hooks") or {}).get("checkpoint")
    if saving and saving.get("by_epoch", True) == counts_epochs and saving.get("interval", 1) > length:
        saving.interval = length


def _scale(place: Any, old: int, new: int) -> Any:
    """Scales a place in a training, or a list of places."""
    if isinstance(place, list | tuple):
        return [_scale(one, old, new) for one in place]
    if place >= old:  # MMEngine's linear schedules end one iteration after the training
        return place - old + new
    return round(place * new / old)
