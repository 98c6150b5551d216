"""LoRA adapters of PEFT in the linear layers of XCiT."""

import copy

import pytest
import torch

from tests.helpers.models import random_images, tiny_xcit

peft = pytest.importorskip("peft", reason="install requirements/integrations.lock")

LINEAR_LAYERS = ["fc1", "fc2", "qkv", "proj"]


def with_lora(model):
    """Adds LoRA to every linear layer of the blocks, with random weights in both of its matrices."""
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(tuple(LINEAR_LAYERS))
    ]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(0)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("size", [(24, 32), (96, 128)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_lora_changes_the_output_and_every_lora_tensor_trains(size, training):
    model, images = tiny_xcit().train(training), random_images(2, 3, *size)
    plain = copy.deepcopy(model)
    adapted = with_lora(model).train(training)
    before = {name: value.detach().clone() for name, value in adapted.named_parameters() if value.requires_grad}
    assert len(before) == 2 * len(LINEAR_LAYERS) * len(model.blocks)
    levels = adapted(images)
    assert not torch.allclose(levels[0], plain(images)[0], rtol=1e-3)
    sum(level.square().mean() for level in levels).backward()
    torch.optim.SGD([value for value in adapted.parameters() if value.requires_grad], lr=0.1).step()
    unchanged = [
        name for name, value in adapted.named_parameters() if name in before and torch.equal(value, before[name])
    ]
    assert unchanged == []


@pytest.mark.parametrize("size", [(24, 32), (96, 128)], ids=str)
def test_merged_lora_computes_what_lora_computes(size):
    adapted, images = with_lora(tiny_xcit().double()).eval(), random_images(2, 3, *size).double()
    adapted = adapted.double()
    with torch.no_grad():
        expected = adapted(images)
        merged = adapted.merge_and_unload()
        assert {type(module) for name, module in merged.named_modules() if name.endswith("qkv")} == {torch.nn.Linear}
        for got, level in zip(merged(images), expected):
            assert (got - level).norm() <= 1e-6 * level.norm()
