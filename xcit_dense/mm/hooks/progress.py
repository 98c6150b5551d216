"""Bars for training, validation and test, in a terminal."""

from __future__ import annotations

import atexit
import logging
import sys
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from xcit_dense.utils.progress import Bars
from xcit_dense.utils.ranks import is_rank_zero


@HOOKS.register_module(force=True)
class ProgressHook(Hook):
    """Shows iteration, rate, time left and loss below the log, if standard error is a terminal.

    If standard error is a file or a pipe, the hook does nothing. Of several processes, only rank 0 shows bars.
    """

    priority = "VERY_LOW"  # after the logger, so that the log's lines are above the bar

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._streams: list[tuple[logging.StreamHandler[Any], Any]] = []  # the log's handlers and their own streams

    def before_train(self, runner: Any) -> None:
        """Shows the bar of the training. A resumed training starts with a partly filled bar."""
        self._add(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the bar of the training."""
        if self._bars is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        self._bars.update("train", runner.iter + 1, lambda: "" if loss is None else f"loss {loss.item():.4g}")

    def before_val_epoch(self, runner: Any) -> None:
        """Shows the bar of a validation below the bar of the training."""
        self._add(runner, "val", len(runner.val_dataloader))

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the bar of the validation."""
        if self._bars is not None:
            self._bars.update("val", batch_idx + 1)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Removes the bar of the validation."""
        if self._bars is not None:
            self._bars.remove("val")

    def before_test_epoch(self, runner: Any) -> None:
        """Shows the bar of the test."""
        self._add(runner, "test", len(runner.test_dataloader))

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Moves the bar of the test."""
        if self._bars is not None:
            self._bars.update("test", batch_idx + 1)

    def after_run(self, runner: Any) -> None:
        """Leaves the bars on the screen and gives the terminal back."""
        self._stop()

    def _add(self, runner: Any, name: str, total: int, done: int = 0) -> None:
        if self._bars is None and is_rank_zero() and sys.stderr.isatty():
            self._start(runner)
        if self._bars is not None:
            self._bars.add(name, total, done)

    def _start(self, runner: Any) -> None:
        stdout = sys.stdout
        self._bars = Bars()
        atexit.register(self._stop)  # also if an error ends the run
        # rich replaces sys.stdout to keep text above the bars. The log's handlers still hold the old stream.
        for handler in runner.logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream is stdout and stdout is not sys.stdout:
                self._streams.append((handler, handler.setStream(sys.stdout)))

    def _stop(self) -> None:
        if self._bars is None:
            return
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._bars.close()
        atexit.unregister(self._stop)
        self._bars, self._streams = None, []
