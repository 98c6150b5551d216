"""Short histories of what was logged."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


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
