"""ShortHistoryHook: the memory for logged values is limited."""

from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS

import xcit_dense.mm  # noqa: F401


def test_a_history_keeps_its_last_values():
    history = HistoryBuffer()
    runner = SimpleNamespace(message_hub=SimpleNamespace(log_scalars={"train/loss": history}))
    hook = HOOKS.build({"type": "ShortHistoryHook", "length": 3})
    for value in range(5):
        history.update(value)
        hook.after_train_iter(runner, value)
    history.update(5)
    assert list(history.data[0]) == [3, 4, 5]


def test_a_history_that_is_shorter_stays_as_it_is():
    history = HistoryBuffer(max_length=2)
    runner = SimpleNamespace(message_hub=SimpleNamespace(log_scalars={"train/loss": history}))
    HOOKS.build({"type": "ShortHistoryHook", "length": 3}).after_train_iter(runner, 0)
    assert history.max_length == 2
