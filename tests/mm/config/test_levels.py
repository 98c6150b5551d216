"""A neck or a head that does not fit the levels of the backbone is refused before the run."""

from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import load_config

CONFIGS = Path(__file__).parents[3] / "configs"
MASK_RCNN = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
COAT = CONFIGS / "detection/mask_rcnn_coat_lite_tiny_shapes.py"
UPERNET = CONFIGS / "segmentation/upernet_xcit_n12_p8_shapes.py"
NANO = {"type": "XCiT", "variant": "nano_12_p16", "_delete_": True}


def check(path, **options):
    """Checks a config without its data."""
    changes = {f"model.{name.replace('__', '.')}": value for name, value in options.items()}
    check_config(load_config(path, changes), loaders=())


def one_stage(strides=(8, 16, 32, 64, 128), start_level=0, num_outs=5, **parts):
    """The model of a one-stage detector that reads strides 8, 16 and 32."""
    return {
        "_delete_": True,
        "type": "RetinaNet",
        "backbone": {"type": "XCiT", "variant": "nano_12_p16", "out_strides": (8, 16, 32)},
        "neck": {"type": "FPN", "in_channels": [128] * 3, "start_level": start_level, "num_outs": num_outs},
        "bbox_head": {"type": "RetinaHead", "anchor_generator": {"strides": list(strides)}},
        **parts,
    }


def test_a_model_of_chosen_levels_passes():
    check_config(load_config(MASK_RCNN, {"model": one_stage()}), loaders=())


def test_a_neck_with_another_number_of_levels_is_told_both_ways_out():
    words = [
        "model.neck.in_channels is [128, 128, 128, 128]",
        "this XCiT has 3 levels, at the strides 8, 16, 32, of 128 channels",
        "write model.neck.in_channels=[128, 128, 128], or model.backbone.out_strides with 4 strides",
    ]
    with raises_user_error(*words):
        check(MASK_RCNN, backbone__out_strides=(8, 16, 32))


def test_levels_of_different_widths_are_listed():
    with raises_user_error("the levels of this CoaT have 64, 128, 256, 320 channels", "=[64, 128, 256, 320]"):
        check(COAT, neck__in_channels=[64] * 4)


@pytest.mark.parametrize("key", ["rpn_head.anchor_generator.strides", "roi_head.bbox_roi_extractor.featmap_strides"])
def test_strides_that_are_not_those_of_the_neck_are_refused(key):
    name = f"model.{key}"
    with raises_user_error(f"{name} is [8, 16, 32, 64]", "strides 4, 8, 16, 32", f"write {name}=[4, 8, 16, 32]"):
        check(MASK_RCNN, **{key.replace(".", "__"): [8, 16, 32, 64]})


def test_fewer_levels_of_a_neck_of_fewer_inputs_need_other_strides():
    options = {"backbone__out_strides": (8, 16, 32), "neck__in_channels": [128] * 3}
    with raises_user_error("rpn_head.anchor_generator.strides is [4, 8, 16, 32]", "8, 16, 32, 64", "start_level"):
        check(MASK_RCNN, **options)


@pytest.mark.parametrize("strides", [[8, 16, 32, 64, 128], [(8, 8), (16, 16), (32, 32), (64, 64), (128, 128)]])
def test_strides_may_be_pairs(strides):
    check_config(load_config(MASK_RCNN, {"model": one_stage(strides)}), loaders=())


def test_a_start_level_shifts_the_strides_of_a_neck():
    with raises_user_error("bbox_head.anchor_generator.strides is [8, 16, 32, 64, 128]", "16, 32, 64, 128, 256"):
        check_config(load_config(MASK_RCNN, {"model": one_stage(start_level=1)}), loaders=())


def test_a_start_level_that_is_not_there_is_refused():
    with raises_user_error("model.neck.start_level is 3", "3 levels", "start_level=2 or less"):
        check_config(load_config(MASK_RCNN, {"model": one_stage(start_level=3)}), loaders=())


def test_a_head_behind_another_neck_may_have_any_strides():
    neck = {"type": "ChannelMapper", "in_channels": [128] * 3}
    check_config(load_config(MASK_RCNN, {"model": one_stage([1, 2, 3], neck=neck)}), loaders=())


def test_the_strides_of_a_panoptic_head_are_those_of_the_backbone():
    head = {"type": "MaskFormerHead", "in_channels": [128] * 3, "strides": [4, 8, 16]}
    model = one_stage(type="MaskFormer", neck=None, bbox_head=None, panoptic_head=head)
    with raises_user_error("panoptic_head.strides is [4, 8, 16]", "write model.panoptic_head.strides=[8, 16, 32]"):
        check_config(load_config(MASK_RCNN, {"model": model}), loaders=())


@pytest.mark.parametrize("index", [2, -3, [0, 1, 2]])
def test_a_head_that_reads_a_level_which_is_not_there_is_refused(index):
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    widths = [128] * len(index) if isinstance(index, list) else 128
    head = {"type": "FCNHead", "in_index": index, "in_channels": widths, "_delete_": True}
    words = [
        f"model.decode_head.in_index is {index}",
        "2 levels, at the strides 8, 16",
        "an index up to 1",
        "out_strides",
    ]
    with raises_user_error(*words):
        check(UPERNET, backbone={**NANO, "out_strides": (8, 16)}, decode_head=head, auxiliary_head=None)


def test_a_head_may_read_one_level():
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    head = {"type": "FCNHead", "in_channels": 128, "in_index": 0, "num_classes": 5, "_delete_": True}
    backbone = {**NANO, "out_strides": (16,), "out_indices": (11,)}
    check(UPERNET, backbone=backbone, decode_head=head, auxiliary_head=None)
