"""Sentences about a training's length and learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.optim.scheduler import ConstantParamScheduler, LinearParamScheduler


def find_faults(runner: Any) -> Iterator[str]:
    """Finds out whether a training never reaches its learning rate, or resumes after the end of its schedule.

    Args:
        runner: MMEngine's runner, which is about to train.

    Yields:
        Sentences for the user.
    """
    if is_over(runner):
        return
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    epochs = getattr(runner.train_loop, "_max_epochs", None) or 1
    for number, scheduler in enumerate(schedulers):
        length, unit = (epochs, "epochs") if scheduler.by_epoch else (runner.max_iters, "iterations")
        if _rises(scheduler) and scheduler.end > length:
            yield (
                f"param_scheduler.{number} raises the learning rate for {scheduler.end} {unit}, but the training has "
                f"{length}, so the full rate is never reached; write --cfg-options param_scheduler.{number}.end=N with "
                "a smaller N."
            )
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    progress = [(runner.epoch if each.by_epoch else runner.iter, each.end) for each in schedulers]
    if optimizer is not None and runner.iter > 0 and progress and all(done >= end for done, end in progress):
        rate = max(group["lr"] for group in optimizer.param_groups)
        yield (
            f"The schedule of the checkpoint has ended, so the learning rate stays at {rate:g}; write --cfg-options "
            "load_from=CHECKPOINT instead of --resume to train with a schedule."
        )


def is_over(runner: Any) -> bool:
    """Returns whether a resumed training has no iterations left.

    Args:
        runner: MMEngine's runner, which is about to train.
    """
    epochs = getattr(runner.train_loop, "_max_epochs", None)
    return bool(runner.iter >= runner.max_iters or (epochs and epochs > 1 and runner.epoch >= epochs))


def describe_end(runner: Any) -> str:
    """Describes a training that has no iterations left.

    Args:
        runner: MMEngine's runner.
    """
    epochs = getattr(runner.train_loop, "_max_epochs", 1)
    option = "train_cfg.max_epochs" if epochs > 1 else "train_cfg.max_iters"
    return (
        f"The training is already over: {runner.iter} of {runner.max_iters} iterations are done. To go on, raise "
        f"{option} and the ends in param_scheduler, and start from the weights with --cfg-options load_from=CHECKPOINT."
    )


def _rises(scheduler: Any) -> bool:
    if isinstance(scheduler, LinearParamScheduler):
        return bool(scheduler.start_factor < scheduler.end_factor)
    return isinstance(scheduler, ConstantParamScheduler) and bool(scheduler.factor < 1)
