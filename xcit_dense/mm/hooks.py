"""Hooks: a run's learning curve, a check of weights, a faster backbone in tests, and logs that stay short."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn

from ..backbone import XCiT
from ..checkpoint import about, translate
from ..deploy import deploy
from ..errors import UserError
from ..files import whole
from .checkpoint import unwrap_model

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
    with whole(path) as part:
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


@HOOKS.register_module(force=True)
class CheckWeightsHook(Hook):
    """Refuses to test a model that its checkpoint does not fill; before a training, says what starts from scratch."""

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Compares the checkpoint with the model, by loading it once more than MMEngine does.

        Args:
            runner: The run. One that resumes is not checked.
            checkpoint: What MMEngine has read.

        Raises:
            UserError: The checkpoint is of an XCiT that does not fit; or the run only tests, and entries are missing,
                unknown or of another shape.
        """
        if runner._resume:
            return
        source = runner._load_from or "the checkpoint"
        with about(source):
            # A model in shards has names and shapes that no checkpoint has.
            make_whole = getattr(getattr(runner, "strategy", None), "make_whole", None)
            model = make_whole() if make_whole else runner.model
            missing, unknown, reshaped = _compare(model, checkpoint)
            tests = isinstance(runner._test_loop, BaseLoop) or isinstance(runner._val_loop, BaseLoop)
            if tests and not isinstance(runner._train_loop, BaseLoop):
                _refuse(missing, unknown, reshaped)
            else:
                other = f"of another shape in {source}, as other classes make them, and stay as initialised"
                said = [
                    _some(missing, f"not in {source} and stay as initialised"),
                    _some(reshaped, other, 6),
                    _some(unknown, "of its entries have no place"),
                ]
                if any(said):
                    runner.logger.info(f"Weights: {'; '.join(filter(None, said))}.")


def load_whole(model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
    """Loads a checkpoint into a model that only tests.

    Args:
        model: The model.
        checkpoint: What MMEngine has read.
        source: What errors call it.

    Raises:
        UserError: The checkpoint does not fill the model, as for :class:`CheckWeightsHook`.
    """
    with about(source):
        _refuse(*_compare(model, checkpoint))


def _refuse(missing: Sequence[str], unknown: Sequence[str], reshaped: Sequence[str]) -> None:
    faults = [_some(missing, "missing"), _some(unknown, "unknown"), _some(reshaped, "of another shape")]
    if any(faults):
        raise UserError(
            f"these weights do not fill the model of the config: {'; '.join(filter(None, faults))}. Give a "
            "checkpoint of this config's model, or the config of the checkpoint's, which lies in its work directory."
        )


def _compare(model: nn.Module, checkpoint: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Names missing from a checkpoint, unknown to the model, and of another shape.

    What modules rename while they load is known only by loading.
    """
    model = unwrap_model(model)
    found: list[Any] = []
    handle = model.register_load_state_dict_post_hook(lambda _, keys: found.append(keys))
    try:
        _load_checkpoint_to_model(model, checkpoint, logger="silent")
    finally:
        handle.remove()
    missing, unknown = ([name for name in names if not name.endswith("num_batches_tracked")] for names in found[-1])
    own = model.state_dict()
    state = {name.removeprefix("module."): value for name, value in checkpoint.get("state_dict", checkpoint).items()}
    reshaped = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and name in own and value.shape != own[name].shape
    ]
    for prefix, module in model.named_modules():
        if isinstance(module, XCiT):
            prefix = f"{prefix}." if prefix else ""
            missing += [prefix + name for name in translate(state, prefix, module.state_dict())[1].missing]
    return missing, unknown, reshaped


def _some(names: Sequence[str], what: str, shown: int = 3) -> str:
    """How many names there are, and the first few; nothing of none."""
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names)} {what} ({listed})" if names else ""


@HOOKS.register_module()
class DeployHook(Hook):
    """Tests with a deployed backbone (:func:`xcit_dense.deploy`): the same outputs, sooner.

    Not beside an ``EMAHook``, which exchanges the weights before and after the test.
    """

    def before_test(self, runner: Any) -> None:
        """Deploys the XCiT in the runner's model, which holds its weights by now."""
        averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if not averages and any(isinstance(module, XCiT) for module in runner.model.modules()):
            deploy(runner.model.eval())


@HOOKS.register_module(force=True)
class ShortHistoryHook(Hook):
    """Forgets what was logged long ago, which is in the log files.

    MMEngine keeps a million values of each loss and rate, copies them all at each step, and writes them into each
    checkpoint.

    Args:
        length: Values to keep; no logged average may be over more.
    """

    def __init__(self, length: int = 10_000) -> None:
        self.length = length

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Limits the histories, which then limit themselves."""
        for history in runner.message_hub.log_scalars.values():
            history.max_length = min(history.max_length, self.length)


def _headline(series: Series) -> Series:
    """The metrics people quote: AP and AP50 of boxes and masks, mIoU and accuracies."""
    quoted: Iterable[str] = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50", "mIoU", "mAcc", "aAcc")
    return {name: points for name, points in series.items() if name.rsplit("/", 1)[-1] in quoted}
