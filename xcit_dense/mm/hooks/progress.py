"""The progress of a training, validation or test, where somebody looks at a terminal."""

from __future__ import annotations

import atexit
import logging
import sys
from time import monotonic
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.progress import Progress, TextColumn

from xcit_dense.utils.progress import make_bar
from xcit_dense.utils.ranks import is_rank_zero

_PAUSE = 0.25  # seconds between two drawings


@HOOKS.register_module(force=True)
class ProgressHook(Hook):
    """Shows iteration, loss, rate and time left below the log, if standard error is a terminal.

    Elsewhere, in a file or a pipe, the log's own lines are all there is. Of several processes the first one shows.
    """

    priority = "VERY_LOW"  # after the logger, whose lines stand above the bar

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._drawn = 0.0
        self._streams: list[tuple[Any, Any]] = []  # of the log, as they were

    def before_train(self, runner: Any) -> None:
        """Shows the training's bar, that of a resumed one part full."""
        self._add(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the training's bar."""
        self._move("train", runner.iter + 1, outputs)

    def before_val_epoch(self, runner: Any) -> None:
        """Shows a validation's bar below that of training."""
        self._add(runner, "val", len(runner.val_dataloader))

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the validation's bar."""
        self._move("val", batch_idx + 1)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Takes the validation's bar away."""
        self._remove("val")

    def before_test_epoch(self, runner: Any) -> None:
        """Shows the test's bar."""
        self._add(runner, "test", len(runner.test_dataloader))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the test's bar."""
        self._move("test", batch_idx + 1)

    def after_run(self, runner: Any) -> None:
        """Leaves the bars as they are and gives the terminal back."""
        self._stop()

    def _add(self, runner: Any, name: str, total: int, done: int = 0) -> None:
        if self._progress is None:
            if not is_rank_zero() or not sys.stderr.isatty():
                return
            self._start(runner)
        assert self._progress is not None
        self._tasks[name] = self._progress.add_task(name, total=total, completed=done, loss="")
        self._progress.refresh()

    def _start(self, runner: Any) -> None:
        out = sys.stdout
        # No thread that draws: a data loader's worker may be forked while it holds a lock.
        self._progress = make_bar(TextColumn("{task.fields[loss]}"), auto_refresh=False)
        self._progress.start()
        atexit.register(self._stop)  # whatever ends the run
        # The log's handlers remember the stream that the bar has put its own in place of.
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream is out and out is not sys.stdout:
                self._streams.append((handler, handler.setStream(sys.stdout)))

    def _move(self, name: str, done: int, outputs: Any = None) -> None:
        if self._progress is None or name not in self._tasks:
            return
        values: dict[str, Any] = {"completed": done}
        draw = monotonic() - self._drawn > _PAUSE
        # Only when it is shown: to read a loss is to wait for the GPU.
        if draw and isinstance(outputs, dict) and "loss" in outputs:
            values["loss"] = f"loss {outputs['loss'].item():.4g}"
        self._progress.update(self._tasks[name], **values)
        if draw:
            self._progress.refresh()
            self._drawn = monotonic()

    def _remove(self, name: str) -> None:
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def _stop(self) -> None:
        if self._progress is None:
            return
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._progress.stop()
        atexit.unregister(self._stop)
        self._progress, self._tasks, self._streams = None, {}, []
