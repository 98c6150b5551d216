"""Deployment of complete models: necks and heads have the same outputs, without batch norms after convolutions."""

import copy
import importlib

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmcv.cnn import ConvModule
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.models import assert_close, random_images, randomise
from tests.helpers.tiny import tiny_config
from xcit_dense import deploy
from xcit_dense.ops import winograd
from xcit_dense.ops.winograd_conv import WinogradConv2d


def build(task, head):
    """Builds a tiny model with random weights, in evaluation mode."""
    library = {"detection": "mmdet", "segmentation": "mmseg"}[task]
    pytest.importorskip(f"{library}.models", reason=f"{library} is not installed")
    config = tiny_config(task, head)
    init_default_scope(config.default_scope)
    return randomise(importlib.import_module(f"{library}.registry").MODELS.build(config.model)).eval()


def outputs(model, images):
    """Returns the tensors that heads compute from images."""
    with torch.no_grad():
        features = model.extract_feat(images)
        if hasattr(model, "decode_head"):
            return [model.decode_head(features)]
        head = model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head
        maps = [*features, *(x for maps in head(features) for x in maps)]
        if hasattr(model, "roi_head"):
            crops = random_images(12, features[0].shape[1], 14, 14)
            maps.append(model.roi_head.mask_head(crops))
        return maps


@pytest.mark.parametrize(
    ("task", "head", "norms"),
    [
        ("segmentation", "sem_fpn", True),
        ("segmentation", "upernet", True),
        ("detection", "mask_rcnn", True),
        ("detection", "rtmdet", False),
    ],
)
def test_necks_and_heads_have_the_same_outputs(task, head, norms, monkeypatch):
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 16)  # the heads of tiny models have few channels
    model = build(task, head)
    deployed = deploy(copy.deepcopy(model))
    images = random_images(1, 3, 192, 288)
    for got, expected in zip(outputs(deployed, images), outputs(model, images)):
        # Not the largest difference: a box is an exponential function of its logits, which enlarges a few differences.
        error = (got - expected).norm() / (expected - expected.mean()).norm()
        assert error < 5e-5
    assert any(isinstance(layer, WinogradConv2d) and layer.kernel is not None for layer in deployed.modules())
    assert has_folded_norms(model) == norms
    assert not has_folded_norms(deployed)


def has_folded_norms(model):
    """Whether a layer of the libraries has a batch norm after its convolution."""
    layers = [layer for layer in model.modules() if isinstance(layer, ConvModule) and layer.with_norm]
    return any(isinstance(layer.norm, _BatchNorm) for layer in layers)


@pytest.mark.parametrize(
    "options",
    [
        {"order": ("norm", "conv", "act")},
        {"norm_cfg": {"type": "GN", "num_groups": 4}},
        {"norm_cfg": {"type": "BN", "track_running_stats": False}},
        {"with_spectral_norm": True},
    ],
    ids=str,
)
def test_other_layers_of_mmcv_stay(options):
    layer = randomise(ConvModule(8, 8, 3, **{"norm_cfg": {"type": "BN"}, **options})).eval()
    model = build("segmentation", "sem_fpn")
    model.other = copy.deepcopy(layer)
    norm = type(layer.norm)
    x = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        assert_close(deploy(model).other(x), layer(x), 1e-5)
    assert type(model.other.norm) is norm or not options.get("with_spectral_norm")


def test_a_layer_with_a_hook_stays():
    model = build("segmentation", "sem_fpn")
    layer = model.decode_head.scale_heads[0][0]
    seen = []
    layer.bn.register_forward_hook(lambda module, inputs, output: seen.append(output))
    outputs(deploy(model), random_images(1, 3, 64, 64))
    assert len(seen) == 1
    assert isinstance(layer.conv, nn.Conv2d)
