"""Libraries that take timm's models find what they ask for on each backbone."""

import pytest
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

from tests.helpers.models import raises_user_error, random_images, randomise, tiny_coat, tiny_xcit
from xcit_dense import TokenPyramid


def tiny_tokens(**options):
    shape = {"embed_dim": 32, "depth": 4, "num_heads": 2}
    return randomise(TokenPyramid("beit_base_patch16_224", model_options=shape, **options))


FAMILIES = pytest.mark.parametrize("make", [tiny_xcit, tiny_tokens, tiny_coat])


@FAMILIES
def test_feature_info_describes_the_levels(make):
    model = make().eval()
    levels = model(random_images(1, 3, 64, 64))
    info = model.feature_info
    assert info.channels() == [level.shape[1] for level in levels] == list(model.out_channels)
    assert info.reduction() == [64 // level.shape[2] for level in levels]
    assert model.num_features == levels[-1].shape[1]
    assert [model.get_submodule(name) for name in info.module_name()]
    assert len(info) == len(levels)


@FAMILIES
def test_feature_info_describes_chosen_levels(make):
    options = {"out_indices": (1, 2)} if make is tiny_xcit else {}
    model = make(out_strides=(16, 64), **options)
    assert model.feature_info.reduction() == [16, 64]
    assert {name: shape.stride for name, shape in model.output_shape().items()} == {"p4": 16, "p6": 64}


@FAMILIES
@pytest.mark.parametrize(
    ("indices", "chosen"), [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, 2], [0, 2]), ((-1,), [3]), ([3, 1], [3, 1])]
)
def test_intermediates_are_the_chosen_levels(make, indices, chosen):
    model = make().eval()
    images = random_images(1, 3, 64, 48)
    levels = model(images)
    last, found = model.forward_intermediates(images, indices)
    only = model.forward_intermediates(images, indices, intermediates_only=True)
    torch.testing.assert_close(last, levels[-1])
    for each in (found, only):
        torch.testing.assert_close(each, [levels[index] for index in chosen])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"indices": 5}, ["indices=5", "4 levels", "from 0 to 3"]),
        ({"indices": [4]}, ["indices=[4]", "from 0 to 3"]),
        ({"norm": True}, ["norm=True", "leave norm out"]),
        ({"output_fmt": "NLC"}, ["output_fmt='NLC'", "'NCHW'"]),
    ],
)
def test_other_options_are_refused(options, words):
    with raises_user_error(*words):
        tiny_xcit().forward_intermediates(random_images(1, 3, 32, 32), **options)


@FAMILIES
def test_the_layer_decay_of_timm_follows_the_depth(make):
    model = make()
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.5)
    scales = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            scales[parameter] = group["lr_scale"]
    depths = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    deepest = max(depths.values())
    for name, parameter in model.named_parameters():
        assert scales[parameter] == 0.5 ** (deepest - depths[name]), name


@FAMILIES
def test_coarse_groups_are_the_embedding_the_blocks_and_the_rest(make):
    model = make()
    groups = group_parameters(model, model.group_matcher(coarse=True))
    parts = [{model.layer_of(name) for name in names} for names in groups.values()]
    blocks = len(model.list_blocks())
    assert parts == [
        part for part in ({0}, {*range(1, blocks + 1)}, {blocks + 1} if make is not tiny_coat else None) if part
    ]


@FAMILIES
def test_parameters_without_weight_decay_are_of_the_model(make):
    model = make()
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}
    decays = {}
    for group in create_optimizer_v2(model, "adamw", weight_decay=0.1).param_groups:
        for parameter in group["params"]:
            decays[parameter] = group["weight_decay"]
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and name not in model.no_weight_decay() and not name.endswith(".bias")
        assert decays[parameter] == (0.1 if decayed else 0.0), name


@FAMILIES
def test_recomputation_and_freezing_have_the_names_of_timm(make):
    model = make()
    model.set_grad_checkpointing()
    assert model.with_cp
    model.set_grad_checkpointing(False)
    assert not model.with_cp
    model.freeze_stages(1)
    assert not any(p.requires_grad for p in model.list_blocks()[0].parameters())
    model.unfreeze()
    assert all(p.requires_grad for p in model.parameters())
