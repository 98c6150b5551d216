"""Deployment: outputs stay the same, and a model in training mode is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.models import assert_close, raises_user_error, random_images, tiny_xcit
from xcit_dense import deploy


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("norm_cfg", ["BN", "SyncBN"])
@pytest.mark.parametrize("size", [(32, 40), (90, 75)])  # few tokens and many, for both forms of XCA
def test_a_deployed_model_has_the_same_outputs(patch_size, norm_cfg, size):
    model, x = tiny_xcit(patch_size=patch_size, norm_cfg=norm_cfg).eval(), random_images(2, 3, *size)
    deployed = deploy(copy.deepcopy(model))
    with torch.no_grad():
        for _ in range(2):  # the second call uses the kept positional encoding
            for got, expected in zip(deployed(x), model(x)):
                assert_close(got, expected, 1e-5)


def test_a_deployed_model_has_the_same_outputs_under_autocast():
    model, x = tiny_xcit().eval(), random_images(1, 3, 64, 72)
    deployed = deploy(copy.deepcopy(model))
    with torch.no_grad():
        deployed(x)  # keeps an encoding in fp32, which must not be used under autocast
        with torch.autocast("cpu", torch.bfloat16):
            levels = deployed(x)
        for got, expected in zip(levels, model(x)):
            assert_close(got, expected, 0.1)


def test_batch_norms_after_convolutions_are_gone():
    model = deploy(tiny_xcit(patch_size=16).eval())
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    assert norms == [f"blocks.{index}.local_mp.bn" for index in range(4)]  # these come before a convolution
    assert not any(value.requires_grad for value in model.parameters())


def test_positional_encodings_of_few_sizes_are_kept():
    model = deploy(tiny_xcit().eval())
    with torch.inference_mode():
        for width in range(8, 88, 8):
            model(random_images(1, 3, 8, width))
    assert len(model.pos_embeder._kept) == 4
    levels = model(random_images(1, 3, 8, 80))  # a tensor kept in inference mode can be used outside of it
    assert all(level.isfinite().all() for level in levels)


def test_a_model_that_is_not_deployed_keeps_no_encoding():
    model, x = tiny_xcit().eval(), random_images(1, 3, 16, 16)
    with torch.no_grad():
        before = model(x)[0]
        model.pos_embeder.token_projection.weight.data += 1
        assert not torch.allclose(model(x)[0], before)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}], ids=str)
def test_batch_norms_without_affine_map_or_statistics_are_deployed(options):
    model, x = tiny_xcit(norm_cfg={"type": "BN"} | options).eval(), random_images(2, 3, 64, 72)
    deployed = deploy(copy.deepcopy(model))
    with torch.no_grad():
        for got, expected in zip(deployed(x), model(x)):
            assert_close(got, expected, 1e-5)


def test_gains_too_small_for_fp16_keep_their_digits():
    model, x = tiny_xcit(eta=1e-5).eval(), random_images(1, 3, 64, 72)
    for block in model.blocks:
        for gain in (block.gamma1, block.gamma2, block.gamma3):
            nn.init.constant_(gain, 1e-5)
    deployed = deploy(copy.deepcopy(model))
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        for got, expected in zip(deployed(x), model(x)):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_every_xcit_in_a_model_is_deployed_and_the_model_returned():
    model = nn.ModuleDict({"one": tiny_xcit(), "two": nn.Sequential(tiny_xcit())}).eval()
    assert deploy(model) is model
    assert model["one"].deployed
    assert model["two"][0].deployed


def test_deploying_twice_changes_nothing_more():
    model, x = deploy(tiny_xcit().eval()), random_images(1, 3, 16, 16)
    levels = model(x)
    for got, expected in zip(deploy(model)(x), levels):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_copies_of_a_deployed_model_work():
    model, x = deploy(tiny_xcit().eval()), random_images(1, 3, 16, 16)
    for got, expected in zip(copy.deepcopy(model)(x), model(x)):
        torch.testing.assert_close(got, expected)


def test_a_model_in_training_is_not_deployed():
    with raises_user_error("training mode", "model.eval()"):
        deploy(tiny_xcit().train())


def test_a_model_without_xcit_is_not_deployed():
    with raises_user_error("Conv2d does not contain an XCiT"):
        deploy(nn.Conv2d(3, 4, 1))


def test_a_deployed_model_neither_trains_nor_takes_weights():
    model = deploy(tiny_xcit().eval())
    assert model.eval() is model
    with raises_user_error("cannot train", "deploy(copy.deepcopy(model))"):
        model.train()
    for loading in (model, nn.ModuleDict({"backbone": model})):
        with raises_user_error("does not load weights", "before deploy(model)"):
            loading.load_state_dict(loading.state_dict())
