"""Heads choose levels: the chosen levels are those of the complete backbone, and nothing else is built."""

import logging
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.models import raises_user_error, random_images, randomise, tiny_coat, tiny_xcit
from xcit_dense import CoaT, TokenPyramid, XCiT, load_weights
from xcit_dense.models.pyramid import ALL_STRIDES

SUBSETS = [*combinations(ALL_STRIDES, 1), *combinations(ALL_STRIDES, 3), ALL_STRIDES]
FEW = [(4, 8, 16, 32, 64), (8, 16, 32), (16,), (4,)]
THIN = {"embed_dim": 32, "depth": 6, "num_heads": 2}


def make_xcit(patch_size=16, **options):
    shape = {"patch_size": patch_size, "embed_dim": 16, "depth": 6, "num_heads": 2}
    return randomise(XCiT(**shape, norm_cfg="BN", **options)).eval()


def make_tokens(variant, **options):
    return randomise(TokenPyramid(variant, model_options=THIN, norm_cfg="BN", **options)).eval()


def make_coat(parallel_depth=2, **options):
    return tiny_coat(parallel_depth=parallel_depth, **options).eval()


def make_coat_lite(**options):
    return make_coat(parallel_depth=0, **options)


def make_xcit_p8(**options):
    return make_xcit(8, **options)


def make_beit(**options):
    return make_tokens("beit_base_patch16_224", **options)


def make_cait(**options):
    return make_tokens("cait_xxs24_224", **options)


def make_vit(**options):
    return make_tokens("vit_base_patch16_224", **options)


FAMILIES = [make_xcit, make_xcit_p8, make_beit, make_cait, make_vit, make_coat, make_coat_lite]
BLOCKS_AND_LEVELS = "of levels and blocks that out_strides does not need"


def expected_levels(complete, images, strides):
    """Picks levels of a backbone with all four, and makes stride 64 by one more pooling."""
    levels = dict(zip(complete.out_strides, complete(images)))
    levels[64] = F.max_pool2d(levels[32], tuple(min(2, side) for side in levels[32].shape[2:]))
    return [levels[stride] for stride in strides]


@pytest.mark.parametrize("make", FAMILIES)
@torch.no_grad()
def test_chosen_levels_are_those_of_the_complete_backbone(make):
    complete = make()
    images = random_images(1, 3, 100, 52)
    wanted = dict(zip(ALL_STRIDES, expected_levels(complete, images, ALL_STRIDES)))
    for strides in SUBSETS:
        chosen = make(out_strides=strides)
        chosen.load_state_dict(complete.state_dict())
        levels = chosen(images)
        assert [level.shape[1] for level in levels] == list(chosen.out_channels)
        for level, stride in zip(levels, strides, strict=True):
            torch.testing.assert_close(level, wanted[stride])
    assert chosen.out_strides == SUBSETS[-1]


@pytest.mark.parametrize("strides", FEW)
@pytest.mark.parametrize("make", FAMILIES)
def test_each_parameter_of_chosen_levels_learns(make, strides):
    chosen = make(out_strides=strides).train()
    sum(level.square().mean() for level in chosen(random_images(2, 3, 128, 128))).backward()
    tables = ("relative_position_bias_table",)  # a class token, an attention's table: not all rows need a gradient
    without = [name for name, p in chosen.named_parameters() if p.grad is None and not name.endswith(tables)]
    assert without == []


@pytest.mark.parametrize("make", FAMILIES)
def test_weights_of_a_complete_backbone_load_with_a_word_about_what_is_left_out(make, caplog):
    complete, chosen = make(), make(out_strides=(16,))
    with caplog.at_level(logging.INFO):
        chosen.load_state_dict(complete.state_dict())
    report = chosen.load_report
    lacking = set(complete.state_dict()) - set(chosen.state_dict())
    assert set(report.not_built) == lacking
    assert lacking, "a level of stride 16 needs only a part"
    assert f"{len(lacking)} {BLOCKS_AND_LEVELS}" in caplog.text
    assert not report.missing


@pytest.mark.parametrize("make", FAMILIES)
def test_weights_of_chosen_levels_load_into_the_same_levels(make):
    chosen, twin = make(out_strides=(8, 16)), make(out_strides=(8, 16))
    twin.load_state_dict(chosen.state_dict())
    assert twin.load_report.not_built == twin.load_report.left_out == []


@pytest.mark.parametrize("make", [make_xcit, make_beit, make_coat_lite])
def test_weights_of_chosen_levels_do_not_fill_a_complete_backbone(make):
    state = make(out_strides=(8, 16)).state_dict()
    with raises_user_error("complete checkpoint" if make is make_coat_lite else "checkpoint of"):
        make().load_state_dict(state)


def test_a_classifier_fills_the_blocks_of_chosen_levels(tmp_path):
    complete = make_xcit()
    state = {name: value for name, value in complete.state_dict().items() if not name.startswith("fpn")}
    torch.save({"model": {**state, "cls_token": torch.zeros(1, 1, 16)}}, tmp_path / "classifier.pth")
    chosen = make_xcit(out_strides=(8, 16))
    report = load_weights(chosen, tmp_path / "classifier.pth")
    assert {name.split(".")[0] for name in report.missing} == {"fpn2"}
    assert report.left_out == ["cls_token"]
    assert {name.split(".")[1] for name in report.not_built} == {"4", "5"}


def test_a_file_of_a_complete_backbone_builds_one_of_chosen_levels(tmp_path):
    complete = make_xcit()
    torch.save(complete.state_dict(), tmp_path / "a.pth")
    chosen = XCiT.from_pretrained(tmp_path / "a.pth", out_strides=(8, 32), norm_cfg="BN").eval()
    images = random_images(1, 3, 64, 64)
    torch.testing.assert_close(list(chosen(images)), expected_levels(complete, images, (8, 32)))


def test_modules_of_other_levels_and_later_blocks_are_not_built():
    chosen = make_xcit(out_strides=(16,))
    assert [name for name, _ in chosen.named_children() if name.startswith("fpn")] == ["fpn3"]
    assert (len(chosen.blocks), chosen.full_depth, chosen.out_indices) == (4, 6, (3,))
    lite = make_coat_lite(out_strides=(4, 8))
    assert {name[-1] for name, _ in lite.named_children() if name.startswith("serial")} == {"1", "2"}


def test_a_level_may_come_from_the_last_block():
    chosen = make_xcit(out_strides=(16,), out_indices=(5,))
    assert len(chosen.blocks) == 6
    complete = make_xcit(out_indices=(1, 2, 5, 5))
    chosen.load_state_dict(complete.state_dict())
    images = random_images(1, 3, 64, 64)
    torch.testing.assert_close(chosen(images)[0], complete(images)[2])


def test_the_name_of_a_backbone_is_that_of_its_variant():
    assert XCiT("nano_12_p16", out_strides=(16,)).name == "XCiT nano_12_p16"
    assert CoaT("coat_lite_tiny", out_strides=(8,)).name == "CoaT coat_lite_tiny"


@pytest.mark.parametrize("make", FAMILIES)
def test_layers_and_frozen_stages_count_the_blocks_that_are_built(make):
    chosen = make(out_strides=(8,))
    depth = len(chosen.list_blocks())
    assert max(chosen.layer_of(name) for name, _ in chosen.named_parameters()) in (depth, depth + 1)
    chosen.frozen_stages = depth
    with raises_user_error(f"up to {depth}"):
        chosen.frozen_stages = depth + 1


@pytest.mark.parametrize("strides", [(), (8, 4), (4, 4, 8), (4, 12), (2, 4), 8, "8", (8.0, 16), (True, 4), None])
@pytest.mark.parametrize("make", [make_xcit, make_vit, make_coat])
def test_other_strides_are_answered_with_right_ones(make, strides):
    with raises_user_error("out_strides=", "(4, 8, 16, 32, 64) in ascending order", "(8, 16, 32)"):
        make(out_strides=strides)


def test_as_many_blocks_as_strides_are_needed():
    with raises_user_error("out_indices=(0, 1, 2, 3)", "for each of the strides (8, 16)", "out_indices=(2, 3)"):
        tiny_xcit(depth=6, out_strides=(8, 16))
