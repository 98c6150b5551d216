"""Limits the length of MMEngine's histories."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module(force=True)
class ShortHistoryHook(Hook):
    """Limits how many logged values MMEngine keeps in memory. The log files contain all values.

    MMEngine keeps a million values of each loss and learning rate, copies all of them in each step, and writes them
    into each checkpoint.

    Args:
        length: The number of values to keep. A logged average must not be over more values.
    """

    def __init__(self, length: int = 10_000) -> None:
        self.length = length

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Sets the limit of each history. A history removes old values itself."""
        for history in runner.message_hub.log_scalars.values():
            history.max_length = min(history.max_length, self.length)
