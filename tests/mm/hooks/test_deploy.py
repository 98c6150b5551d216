"""DeployHook: a test runs on a deployed backbone."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.registry import HOOKS

from tests.helpers.models import random_images, tiny_xcit
from xcit_dense.mm.hooks import deploy


def run_test(*hooks):
    """Runs DeployHook before a test of a detector with a tiny XCiT, and returns the backbone."""
    detector = nn.Module()
    detector.backbone = tiny_xcit()
    HOOKS.build({"type": "DeployHook"}).before_test(SimpleNamespace(model=detector, hooks=hooks))
    return detector.backbone


def test_a_backbone_is_deployed_for_a_test():
    backbone, x = run_test(), random_images(1, 3, 32, 40)
    assert backbone.deployed
    with torch.no_grad():
        for got, expected in zip(backbone(x), tiny_xcit().eval()(x)):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_not_deployed_if_a_hook_exchanges_its_weights():
    assert not run_test(HOOKS.build({"type": "EMAHook"})).deployed


def test_a_model_without_xcit_does_not_change():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    HOOKS.build({"type": "DeployHook"}).before_test(SimpleNamespace(model=model, hooks=[]))
    assert len(list(model.parameters())) == 4


def test_the_hook_can_be_imported_again():
    importlib.reload(deploy)
    assert HOOKS.get("DeployHook") is deploy.DeployHook
