"""The learning curve of a run, as an image."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from xcit_dense.errors import UserError
from xcit_dense.utils.files import atomic_write

Series = dict[str, list[tuple[int, float]]]

_NOT_PLOTTED = ("step", "iter", "epoch", "time", "data_time")
_METRICS = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50", "mIoU", "mAcc", "aAcc")
"""The metrics in the plot: AP and AP50 of boxes and masks, mIoU and accuracies."""


@dataclass
class Curves:
    """Logged numbers of a run by name. Each series is a list of (iteration, value).

    Attributes:
        train: Losses, learning rates and other numbers of the training.
        val: Metrics of the validations.
    """

    train: Series = field(default_factory=dict)
    val: Series = field(default_factory=dict)


def read_curves(work_dir: str | Path) -> Curves:
    """Reads the numbers that MMEngine's ``LocalVisBackend`` wrote, and joins the parts of a resumed run.

    Args:
        work_dir: The work directory of a run. The parts are the files ``TIMESTAMP/vis_data/scalars.json`` in it.

    Returns:
        The curves, without points if the run has logged nothing yet. The name of a metric is as in the file, for
        example ``'coco/bbox_mAP'``.

    Example:
        >>> Path("run/1/vis_data").mkdir(parents=True)
        >>> _ = Path("run/1/vis_data/scalars.json").write_text('{"lr": 0.1, "loss": 2.5, "step": 50}')
        >>> read_curves("run").train["loss"]
        [(50, 2.5)]
    """
    curves = Curves()
    trained = 0  # the iteration of the last training record
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # the line is incomplete: the run was killed, or the disk was full
                continue
            # Only training records contain a learning rate.
            if "lr" in record:
                trained = iteration = int(record["step"])
                series = curves.train
            else:
                # LearningCurveHook logs the iteration of a validation. Without the hook, "step" counts epochs in some
                # configs and iterations in others, so the iteration of the last training record is used.
                iteration = int(record.get("iter", trained))
                series = curves.val
            for name, value in record.items():
                if isinstance(value, int | float) and name not in _NOT_PLOTTED:
                    _append(series.setdefault(name, []), iteration, float(value))
    return curves


def metrics_at(work_dir: str | Path, iteration: int) -> dict[str, float]:
    """Reads the main metrics of the validation after an iteration.

    Args:
        work_dir: The work directory of a run.
        iteration: The iteration of a checkpoint.

    Returns:
        The metrics by name, ``'coco/bbox_mAP'`` for example. Empty if the run has not validated then.

    Example:
        >>> Path("measured/1/vis_data").mkdir(parents=True)
        >>> _ = Path("measured/1/vis_data/scalars.json").write_text('{"mIoU": 41.5, "iter": 50, "step": 50}')
        >>> metrics_at("measured", 50)
        {'mIoU': 41.5}
    """
    found = {}
    for name, points in read_curves(work_dir).val.items():
        value = dict(points).get(iteration)
        if value is not None and math.isfinite(value) and name.rsplit("/", 1)[-1] in _METRICS:
            found[name] = value
    return found


def _append(points: list[tuple[int, float]], iteration: int, value: float) -> None:
    """Appends a point and removes the points that a resumed run has repeated."""
    while points and points[-1][0] >= iteration:
        points.pop()
    points.append((iteration, value))


def draw_learning_curve(work_dir: str | Path) -> Path | None:
    """Plots losses, learning rate and metrics into ``work_dir/learning_curve.png``.

    Args:
        work_dir: The work directory of a run.

    Returns:
        The image's path, or None if the run has not logged any training iteration.

    Raises:
        UserError: The image cannot be written.

    Example:
        >>> Path("drawn/1/vis_data").mkdir(parents=True)
        >>> _ = Path("drawn/1/vis_data/scalars.json").write_text('{"lr": 0.1, "loss": 2.5, "step": 50}')
        >>> draw_learning_curve("drawn").as_posix()
        'drawn/learning_curve.png'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_curves(work_dir)
    if not curves.train:
        return None
    losses = {name: points for name, points in curves.train.items() if "loss" in name}
    # If the learning rate depends on the depth, "lr" belongs to the first parameters and "base_lr" to the config.
    rate = curves.train.get("base_lr") or curves.train["lr"]
    metrics = {name: points for name, points in curves.val.items() if name.rsplit("/", 1)[-1] in _METRICS}
    panels = [losses, {"lr": rate}, metrics]
    last = max(points[-1][0] for panel in panels for points in panel.values())
    titles = ["loss", "learning rate", "validation metrics"]
    shown = [(title, series) for title, series in zip(titles, panels) if series]
    figure = Figure(figsize=(9, 3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, series) in enumerate(shown, start=1):
        axes = figure.add_subplot(len(shown), 1, number)
        for name, points in series.items():
            axes.plot(*zip(*points), label=name, marker="." if len(points) < 60 else None, linewidth=1.2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration")
        axes.set_xlim(0, max(last, 1))
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.grid(alpha=0.3)
        if len(series) > 1:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path = Path(work_dir) / "learning_curve.png"
    with atomic_write(path) as part:
        figure.savefig(part, dpi=110)
    return path


@HOOKS.register_module(force=True)
class LearningCurveHook(Hook):
    """Draws the learning curve after each validation and at the end of the training (:func:`draw_learning_curve`).

    If the image cannot be written, the hook logs a warning and the training continues. The hook also logs the iteration
    of each validation next to the metrics.
    """

    priority = "VERY_LOW"  # after the logger has written the metrics

    def before_val_epoch(self, runner: Any) -> None:
        """Adds the iteration to the numbers that MMEngine logs with the metrics."""
        # runner.iter would build the training's loop, which a run that only validates does not need.
        if hasattr(runner._train_loop, "iter"):
            runner.message_hub.update_scalar("val/iter", runner.iter)

    @master_only
    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Draws the curve."""
        self._draw(runner)

    @master_only
    def after_train(self, runner: Any) -> None:
        """Draws the curve and logs the path of the image."""
        path = self._draw(runner)
        if path:
            runner.logger.info(f"Learning curve: {path}")

    def _draw(self, runner: Any) -> Path | None:
        try:
            return draw_learning_curve(runner.work_dir)
        except UserError as error:
            runner.logger.warning(str(error))
            return None
