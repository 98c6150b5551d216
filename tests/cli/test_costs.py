"""The table of parameters and multiply-adds equals the computation."""

import re

import pytest

from tests.helpers.marks import MATRIX
from tests.helpers.models import raises_user_error
from xcit_dense import VARIANTS, XCiT
from xcit_dense.cli.costs import AT_800_X_1344, Cost, cost_of, count_backbone, count_model, count_weights
from xcit_dense.weights.zoo import ZOO

SAMPLE = ("nano_12_p8", "small_24_p16")


@pytest.mark.parametrize("variant", [pytest.param(one, marks=[] if one in SAMPLE else MATRIX) for one in VARIANTS])
def test_the_table_has_the_cost_of_each_backbone(variant):
    assert cost_of(ZOO[f"{variant}_224"]) == count_backbone(variant, 224)


def test_a_backbone_costs_more_at_384_pixels():
    assert cost_of(ZOO["small_12_p16_384_dist"]) == count_backbone("small_12_p16", 384)


def test_parameters_equal_the_parameters_of_the_model_without_its_pyramid():
    names = XCiT("nano_12_p8").named_parameters()
    count = sum(parameter.numel() for name, parameter in names if not name.startswith("fpn"))
    assert count_backbone("nano_12_p8", 64).parameters == round(count / 1e6, 1)


@pytest.mark.parametrize(
    "name",
    [
        "coco/tiny_12_p16",
        "ade20k/sem_fpn/tiny_12_p16",
        pytest.param("ade20k/upernet/tiny_12_p8", marks=MATRIX),
        "ade20k/upernet/beitv2_base_1k",
        pytest.param("coco/mask_rcnn/coat_mini", marks=MATRIX),
        "coco/cascade_mask_rcnn/coat_lite_small_1x",
    ],
)
def test_the_table_has_the_cost_of_complete_models(name):
    pytest.importorskip("mmdet", reason="MMDetection is not installed")
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    from xcit_dense.cli.options import start_mm

    start_mm()
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.weights.locate import locate_model

    assert cost_of(ZOO[name]) == count_model(load_config(locate_model(name).config))


@pytest.mark.parametrize(
    "name",
    [
        "beit_base_patch16_384_pt22k_ft22kto1k",
        pytest.param("beitv2_base_patch16_224_pt1k", marks=MATRIX),
        "cait_xxs24_224",
        pytest.param("cait_s24_384", marks=MATRIX),
        pytest.param("coat_lite_medium_384", marks=MATRIX),
        "coat_tiny",
    ],
)
def test_the_table_has_the_cost_of_other_backbones(name):
    assert cost_of(ZOO[name]) == count_weights(ZOO[name])


@pytest.mark.parametrize(
    "name", ['CoaT("coat_lite_small")', 'TokenPyramid("cait_xxs24_384")', 'TokenPyramid("beit_base_patch16_224")']
)
def test_the_costs_for_a_large_image_are_counted(name):
    backbone, variant = re.fullmatch(r'(\w+)\("(\w+)"\)', name).groups()
    assert count_backbone(variant, (800, 1344), backbone) == AT_800_X_1344[name]


def test_every_published_weight_has_a_cost():
    assert all(isinstance(cost_of(weights), Cost) for weights in ZOO.values())
    assert cost_of(ZOO["coco/small_12_p16"]).parameters == 44.4


def test_a_model_of_another_kind_is_refused():
    pytest.importorskip("mmdet", reason="MMDetection is not installed")
    from xcit_dense.cli.options import start_mm
    from xcit_dense.cli.shipped_configs import find_config

    start_mm()
    from xcit_dense.mm.config.load import load_config

    config = load_config(find_config("mask_rcnn_xcit_n12"))
    config.model.type = "TwoStageDetector"
    with raises_user_error("TwoStageDetector", "MaskRCNN"):
        count_model(config)
