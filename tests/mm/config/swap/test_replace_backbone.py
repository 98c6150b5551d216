"""A config of MMDetection with an XCiT in place of its backbone: levels, widths, images, optimizer."""

from importlib.util import find_spec

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmengine.config import Config

from tests.helpers.models import raises_user_error
from xcit_dense.cli.installed_configs import library_configs
from xcit_dense.mm.config.swap import replace_backbone


def theirs(name, **changes):
    """A config of MMDetection, with changes to its model."""
    config = Config.fromfile(library_configs("mmdet")[name], import_custom_modules=False)
    config.model.update(changes)
    return config


RETINANET = "retinanet/retinanet_r50_fpn_1x_coco.py"


@pytest.mark.parametrize(
    ("name", "strides", "blocks"),
    [
        (RETINANET, [4, 8, 16, 32], None),
        ("yolox/yolox_s_8xb8-300e_coco.py", [8, 16, 32], None),
        ("detr/detr_r50_8xb2-150e_coco.py", [32], None),
        ("ssd/ssd300_coco.py", [8, 16], [5, 11]),  # the coarsest level comes from the last block
        ("faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py", [16], [11]),
        ("cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py", [4], [11]),  # two hourglasses
        ("swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py", [4, 8, 16, 32], None),
        ("dcn/mask-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py", [4, 8, 16, 32], None),
    ],
)
def test_the_xcit_returns_the_levels_of_the_old_backbone(name, strides, blocks):
    backbone = replace_backbone(theirs(name), "nano_12_p16").model.backbone
    assert (backbone.type, backbone.out_strides, backbone.get("out_indices")) == ("XCiT", strides, blocks)


def test_a_neck_a_head_and_a_neck_that_passes_levels_on_get_the_new_width():
    assert replace_backbone(theirs(RETINANET), "small_12_p16").model.neck.in_channels == [384] * 4
    mask2former = replace_backbone(theirs("mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"), "small_12_p16")
    assert mask2former.model.panoptic_head.in_channels == [384] * 4
    ssd = replace_backbone(theirs("ssd/ssd300_coco.py"), "small_12_p16").model
    assert ssd.neck.in_channels == (384, 384)
    assert ssd.neck.out_channels == ssd.bbox_head.in_channels == (384, 384, 512, 256, 256, 256)
    yolof = replace_backbone(theirs("yolof/yolof_r50-c5_8xb8-1x_coco.py"), "small_12_p16").model
    assert yolof.neck.in_channels == 384


def test_the_config_itself_does_not_change():
    config = theirs(RETINANET)
    before = config.to_dict()
    replace_backbone(config, "nano_12_p16")
    assert config.to_dict() == before


def test_sgd_becomes_adamw_and_rates_follow_the_number_of_images():
    yolox = replace_backbone(theirs("yolox/yolox_s_8xb8-300e_coco.py"), "nano_12_p16")  # 64 images in a step
    assert yolox.optim_wrapper.optimizer.to_dict() == {
        "type": "AdamW",
        "lr": 4e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.05,
    }
    assert yolox.optim_wrapper.paramwise_cfg == {"custom_keys": {"norm": {"decay_mult": 0.0}}}
    # YOLOX's last rate is 1/20 of its first.
    assert yolox.param_scheduler[1].eta_min == pytest.approx(4e-4 / 20)


def test_adamw_keeps_its_settings_and_the_norms_of_the_xcit_do_not_decay():
    config = theirs("mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py")
    replaced = replace_backbone(config, "nano_12_p16").optim_wrapper
    assert replaced.optimizer == config.optim_wrapper.optimizer
    keys = replaced.paramwise_cfg.custom_keys
    assert keys["backbone.blocks.11.norm"] == {"lr_mult": 0.1, "decay_mult": 0.0}
    assert keys["query_embed"] == config.optim_wrapper.paramwise_cfg.custom_keys["query_embed"]
    # Rules for layers of the Swin transformer go.
    assert {key for key in keys if key.startswith("backbone")} == {
        "backbone",
        *(f"backbone.blocks.{block}.norm" for block in range(12)),
    }


def test_images_are_normalised_as_the_weights_need_it_also_where_the_config_has_no_mean():
    for name in ("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "yolox/yolox_s_8xb8-300e_coco.py"):
        part = replace_backbone(theirs(name), "nano_12_p16").model.data_preprocessor
        assert (part.mean, part.std) == ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
        assert part.bgr_to_rgb is True


def test_weights_are_published_own_or_none():
    config = theirs(RETINANET)
    assert replace_backbone(config, "nano_12_p16").model.backbone.init_cfg.checkpoint == "xcit://nano_12_p16_384_dist"
    own = replace_backbone(config, "nano_12_p16", weights="mine.pth").model.backbone
    assert own.init_cfg == {"type": "Pretrained", "checkpoint": "mine.pth"}
    assert "init_cfg" not in replace_backbone(config, "nano_12_p16", weights=None).model.backbone


def test_weights_of_the_old_model_are_not_loaded():
    config = theirs(RETINANET, pretrained="old.pth")
    config.load_from = "old.pth"
    replaced = replace_backbone(config, "nano_12_p16")
    assert replaced.load_from is None
    assert replaced.model.pretrained is None


def test_a_model_inside_a_model_is_found():
    config = theirs("soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py")
    replaced = replace_backbone(config, "nano_12_p16").model
    assert replaced.detector.backbone.type == "XCiT"
    assert replaced.data_preprocessor.data_preprocessor.bgr_to_rgb is True


def test_a_last_stage_of_a_resnet_as_a_head_reads_its_own_width():
    model = replace_backbone(theirs("faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py"), "nano_12_p16").model
    assert (model.neck.in_channels, model.neck.out_channels) == ([128], 1024)
    assert model.rpn_head.in_channels == 1024


def test_a_backbone_of_a_missing_library_returns_the_levels_that_its_neck_reads():
    config = theirs("convnext/cascade-mask-rcnn_convnext-s-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py")
    replaced = replace_backbone(config, "nano_12_p16")
    assert replaced.model.backbone.out_strides == [4, 8, 16, 32]
    assert replaced.model.neck.in_channels == [128] * 4
    assert "constructor" not in replaced.optim_wrapper
    if find_spec("mmpretrain") is None:
        assert replaced.custom_imports.imports == []


def test_maps_that_xcit_does_not_have_are_refused():
    with raises_user_error("'DetectoRS_ResNet'", "strides (1, 4, 8, 16, 32)"):
        replace_backbone(theirs("detectors/detectors_cascade-rcnn_r50_1x_coco.py"), "nano_12_p16")


def test_an_unknown_variant_and_a_backbone_that_is_not_registered_are_refused():
    with raises_user_error("No XCiT variant is called 'nano_12_p61'", "Did you mean 'nano_12_p16'?"):
        replace_backbone(theirs(RETINANET), "nano_12_p61")
    with raises_user_error("'mmpretrain.ConvNeXt'", "not registered"):
        replace_backbone(theirs(RETINANET, backbone={"type": "mmpretrain.ConvNeXt"}, neck=None), "nano_12_p16")
    with raises_user_error("no model with a backbone"):
        replace_backbone(Config({"default_scope": "mmdet"}), "nano_12_p16")
    with raises_user_error("default_scope is None"):
        replace_backbone(Config(), "nano_12_p16")
