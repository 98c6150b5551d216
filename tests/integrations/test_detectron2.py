"""A backbone keeps the conventions of detectron2: levels by name, their shapes, and what images must look like."""

import sys
from abc import ABCMeta
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.helpers.models import random_images, tiny_coat, tiny_xcit
from xcit_dense.integrations.detectron2 import LevelsByName

LEVELS = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


@pytest.mark.parametrize("build", [tiny_xcit, tiny_coat])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16, 32, 64), (16,)], ids=str)
def test_levels_have_the_names_and_shapes_of_output_shape(build, strides):
    options = {"out_indices": (3,) * len(strides)} if build is tiny_xcit else {}
    backbone = LevelsByName(build(out_strides=strides, **options)).eval()
    shapes, levels = backbone.output_shape(), backbone(random_images(2, 3, 64, 128))
    assert {name: shape.stride for name, shape in shapes.items()} == {
        name: stride for name, stride in LEVELS.items() if stride in strides
    }
    assert list(levels) == list(shapes)
    for name, (channels, height, width, stride) in shapes.items():
        assert (height, width) == (None, None)
        assert levels[name].shape == (2, channels, 64 // stride, 128 // stride)
    for level, own in zip(levels.values(), backbone.body(random_images(2, 3, 64, 128)), strict=True):
        assert torch.equal(level, own)


def test_the_names_under_an_fpn_are_those_of_a_resnet():
    backbone = LevelsByName(tiny_xcit(), prefix="res")
    assert list(backbone.output_shape()) == list(backbone(torch.rand(1, 3, 32, 32))) == ["res2", "res3", "res4", "res5"]


def test_images_may_have_any_size():
    backbone = LevelsByName(tiny_xcit()).eval()
    assert (backbone.size_divisibility, backbone.padding_constraints) == (0, {})
    assert backbone(torch.rand(1, 3, 37, 53))["p2"].shape[2:] == (10, 14)


def test_detectron2_accepts_the_backbone_as_its_own(monkeypatch):
    class Backbone(nn.Module, metaclass=ABCMeta):
        """In detectron2, the class that the registry and the FPN ask for."""

    stand_in = ModuleType("detectron2.modeling")
    stand_in.Backbone = Backbone
    monkeypatch.setitem(sys.modules, "detectron2", ModuleType("detectron2"))
    monkeypatch.setitem(sys.modules, "detectron2.modeling", stand_in)
    monkeypatch.delitem(sys.modules, "xcit_dense.integrations.detectron2")
    module = import_module("xcit_dense.integrations.detectron2")
    assert isinstance(module.LevelsByName(tiny_xcit()), Backbone)
    assert not isinstance(tiny_xcit(), Backbone)
