"""The learning curve of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from xcit_dense.errors import UserError
from xcit_dense.utils.files import atomic_write

Series = dict[str, list[tuple[int, float]]]


@dataclass
class Curves:
    """Scalars of a run by name, each a list of (iteration, value)."""

    train: Series = field(default_factory=dict)
    val: Series = field(default_factory=dict)


def read_curves(work_dir: str | Path) -> Curves:
    """Reads what MMEngine's ``LocalVisBackend`` wrote under ``work_dir``, a resumed run's parts joined.

    Args:
        work_dir: A run's directory; its parts are ``TIMESTAMP/vis_data/scalars.json``.
    """
    curves = Curves()
    iteration = 0
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # cut short: the run was killed, or its disk was full
                continue
            # Only training records carry a learning rate. A metric belongs to the iteration trained last: its own
            # step counts epochs in some configs and iterations in others.
            is_train = "lr" in record
            iteration = int(record["step"]) if is_train else iteration
            series = curves.train if is_train else curves.val
            for name, value in record.items():
                if isinstance(value, int | float) and name not in ("step", "iter", "epoch", "time", "data_time"):
                    points = series.setdefault(name, [])
                    while points and points[-1][0] >= iteration:  # repeated after a resume
                        points.pop()
                    points.append((iteration, float(value)))
    return curves


def draw_learning_curve(work_dir: str | Path) -> Path | None:
    """Draws losses and learning rate, and the metrics below them, into ``work_dir/learning_curve.png``.

    Args:
        work_dir: A run's directory.

    Returns:
        The picture, or None where nothing has been logged yet.

    Raises:
        UserError: It cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_curves(work_dir)
    if not curves.train:
        return None
    losses = {name: points for name, points in curves.train.items() if "loss" in name}
    # Where rates differ by depth, "lr" is that of the first parameters, and "base_lr" the config's.
    rate = curves.train.get("base_lr") or curves.train["lr"]
    panels = [losses, {"lr": rate}, _headline(curves.val)]
    last = curves.train["lr"][-1][0]
    titles = ["loss", "learning rate", "held-out metrics"]
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
    """Draws the learning curve after each validation and at the end of training (:func:`draw_learning_curve`).

    Where it cannot be written, a warning says so, and the training goes on.
    """

    priority = "VERY_LOW"  # after the logger has written the metrics

    @master_only
    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Draws the curve so far."""
        self._draw(runner)

    @master_only
    def after_train(self, runner: Any) -> None:
        """Draws the whole curve and says where it is."""
        path = self._draw(runner)
        if path:
            runner.logger.info(f"Learning curve: {path}")

    def _draw(self, runner: Any) -> Path | None:
        try:
            return draw_learning_curve(runner.work_dir)
        except UserError as error:
            runner.logger.warning(str(error))
            return None


def _headline(series: Series) -> Series:
    """The metrics people quote: AP and AP50 of boxes and masks, mIoU and accuracies."""
    quoted: Iterable[str] = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50", "mIoU", "mAcc", "aAcc")
    return {name: points for name, points in series.items() if name.rsplit("/", 1)[-1] in quoted}
