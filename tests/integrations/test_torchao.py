"""Quantized linear layers of torchao in XCiT. After quantize_ a layer is an nn.Linear whose weight is a subclass."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.models import random_images, tiny_xcit

torchao = pytest.importorskip("torchao.quantization", reason="install requirements/integrations.lock")


@pytest.mark.parametrize("size", [(24, 32), (96, 128)], ids=str)
@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_int8_layers_are_near_the_model(size, config):
    # Linear layers of at least 32 channels: torchao leaves smaller ones as they are.
    model = tiny_xcit(embed_dim=64, num_heads=2).eval()
    images = random_images(1, 3, *size)
    quantized = copy.deepcopy(model)
    torchao.quantize_(quantized, getattr(torchao, config)())
    linears = [module for module in quantized.modules() if type(module) is nn.Linear]
    assert len(linears) == 4 * len(model.blocks)
    assert all(type(layer.weight) is not nn.Parameter for layer in linears)
    with torch.no_grad():
        levels, expected = quantized(images), model(images)
    for got, level in zip(levels, expected):
        assert 0 < (got - level).norm() < 0.1 * level.norm()
