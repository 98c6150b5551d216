"""What a resumed training takes from its checkpoint instead of from its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xcit_dense.errors import UserError
from xcit_dense.mm.runtime.console import say

_OF_OPTIMIZER = ("lr", "weight_decay", "betas", "momentum", "eps")
# Entries of a schedule's state that change during a training, or that follow from other entries.
_OF_PROGRESS = ("base_values", "last_step", "_global_step", "_last_value", "verbose", "total_iters")
_SHOWN = 6


def check_resume(runner: Any, checkpoint: Mapping[str, Any]) -> None:
    """Checks that a training may resume from a checkpoint, and says which settings come from the checkpoint.

    MMEngine takes the optimizer's settings and the schedule from the checkpoint, and ignores those of the config.

    Args:
        runner: The run, which has built its optimizer and its schedules.
        checkpoint: The checkpoint that MMEngine has read and not yet loaded.

    Raises:
        UserError: The checkpoint is of other classes, of another optimizer, or of a schedule with other parts.
    """
    source = runner._load_from
    remedy = f"write --cfg-options load_from={source} instead of --resume to start from its weights"
    old, new = _classes(checkpoint["meta"].get("dataset_meta")), _classes(_metainfo(runner))
    if old and new and old != new:
        raise UserError(
            f"{source} was trained on {_list_classes(old)}, but the data has {_list_classes(new)}; give the data of "
            f"that training, or {remedy}."
        )
    try:
        changes = [*_compare_optimizers(runner, checkpoint), *_compare_schedules(runner, checkpoint)]
    except _DifferentError as error:
        raise UserError(f"{source} cannot be resumed: {error}; {remedy}.") from error
    if changes:
        listed = "; ".join(changes[:_SHOWN]) + ("; ..." if len(changes) > _SHOWN else "")
        say(
            runner.logger,
            f"The optimizer and the schedule come from {source}, not from the config: {listed}. To use the config's, "
            f"{remedy}.",
        )


class _DifferentError(Exception):
    """The optimizer or the schedule of the checkpoint is of another kind than the config's."""


def _metainfo(runner: Any) -> Any:
    return getattr(runner.train_dataloader.dataset, "metainfo", None)


def _classes(meta: Any) -> list[str]:
    # Older versions of the MM libraries write the keys in capitals.
    classes = (meta or {}).get("classes") or (meta or {}).get("CLASSES") or ()
    return [classes] if isinstance(classes, str) else [str(name) for name in classes]


def _list_classes(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"


def _compare_optimizers(runner: Any, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Iterates over the settings of the optimizer that differ."""
    old = (checkpoint.get("optimizer") or {}).get("param_groups")
    # Not optim_wrapper.param_groups, which has one more entry for MMEngine's own use.
    new = getattr(getattr(runner.optim_wrapper, "optimizer", None), "param_groups", None)
    if not isinstance(old, list) or not isinstance(new, list):  # several optimizers, or one that is not built yet
        return
    is_sharded = getattr(runner, "strategy", None) is not None
    if len(old) != len(new) and not is_sharded:
        raise _DifferentError(
            f"its optimizer has {len(old)} groups of parameters, and the config's has {len(new)}, so the model or "
            "paramwise_cfg differs"
        )
    for name in _OF_OPTIMIZER:
        if (name in old[0]) != (name in new[0]):
            raise _DifferentError(f"only one of its optimizer and the config's has {name!r}")
        if name in old[0]:
            before, now = _values(old, name), _values(new, name)
            if before != now:
                yield f"{name} {max(before)} (config: {max(now)})"


def _values(groups: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    # The schedule changes "lr" and keeps "initial_lr".
    values = [group.get("initial_lr", group["lr"]) if name == "lr" else group[name] for group in groups]
    return [tuple(value) if isinstance(value, list | tuple) else value for value in values]


def _compare_schedules(runner: Any, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Iterates over the settings of the schedules that differ."""
    old, new = checkpoint.get("param_schedulers"), runner.param_schedulers
    if not isinstance(old, list) or not isinstance(new, list):  # several optimizers, or no schedule
        return
    if len(old) != len(new):
        raise _DifferentError(f"its schedule has {len(old)} parts, and param_scheduler of the config has {len(new)}")
    for number, (saved, scheduler) in enumerate(zip(old, new)):
        own = {key: value for key, value in scheduler.state_dict().items() if key not in _OF_PROGRESS}
        saved = {key: value for key, value in saved.items() if key not in _OF_PROGRESS}
        if saved.keys() != own.keys():
            raise _DifferentError(f"param_scheduler.{number} of the config is of another type than its schedule")
        for key, value in saved.items():
            if value != own[key]:
                yield f"param_scheduler.{number}.{key} {_show(value)} (config: {_show(own[key])})"


def _show(value: Any) -> str:
    return str(sorted(value)) if isinstance(value, Mapping) else str(value)
