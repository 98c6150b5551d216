"""WinogradHook: convolutions of necks and heads are exchanged before a run."""

from types import SimpleNamespace

import pytest
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config
from mmengine.registry import HOOKS

import xcit_dense.mm  # noqa: F401
from tests.helpers.tiny import CONFIGS
from xcit_dense.ops.winograd_conv import WinogradConv2d


def test_large_convolutions_are_exchanged_before_a_run():
    model = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 8, 1))
    HOOKS.build({"type": "WinogradHook"}).before_run(SimpleNamespace(model=model))
    assert [type(layer) for layer in model] == [WinogradConv2d, nn.Conv2d]


def test_the_configs_have_the_hook():
    for name in ("detection/mask_rcnn_xcit_s12.py", "detection/rtmdet_xcit_s12.py", "segmentation/upernet_xcit_s12.py"):
        hooks = Config.fromfile(CONFIGS / name).custom_hooks
        assert "WinogradHook" in [hook["type"] for hook in hooks], name
