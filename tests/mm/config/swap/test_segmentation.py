"""A config of MMSegmentation with an XCiT in place of its backbone: levels, widths, necks, branches."""

import pytest

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from mmengine.config import Config

from tests.helpers.models import raises_user_error
from xcit_dense.cli.installed_configs import library_configs
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.swap import replace_backbone
from xcit_dense.mm.config.swap.write import add_import, write_difference


def theirs(name):
    """A config of MMSegmentation."""
    return Config.fromfile(library_configs("mmseg")[f"{name}.py"], import_custom_modules=False)


def replaced(name, variant="nano_12_p16"):
    """The model of a config of MMSegmentation with an XCiT."""
    return replace_backbone(theirs(name), variant, weights=None).model


FCN = "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024"
DEEPLAB = "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024"
UPERNET = "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024"
SEGFORMER = "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512"
SEGNEXT = "segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512"
SEGMENTER = "segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512"
CGNET = "cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024"
UNET = "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024"
BISENETV1 = "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024"
BISENETV2 = "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024"
STDC = "stdc/stdc1_4xb12-80k_cityscapes-512x1024"
LRASPP = "mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024"
FASTFCN = "fastfcn/fastfcn_r50-d32_jpu_psp_4xb2-80k_cityscapes-512x1024"
OCRNET = "ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024"
PSANET = "psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024"
BEIT = "beit/beit-base_upernet_8xb2-160k_ade20k-640x640"
VIT = "vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512"
DPT = "dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512"
DMNET = "dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024"
PIDNET = "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes"
CONVNEXT = "convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512"


@pytest.mark.parametrize(
    ("name", "strides", "blocks", "read"),
    [
        (FCN, [8, 16], [5, 11], 1),
        (DEEPLAB, [4, 8, 16], [3, 5, 11], 2),
        (SEGFORMER, [4, 8, 16, 32], None, [0, 1, 2, 3]),
        (SEGNEXT, [8, 16, 32], None, [0, 1, 2]),
        (SEGMENTER, [16], [11], 0),
        (CGNET, [8], [11], 0),
        (UNET, [4], [11], 0),
        (LRASPP, [4, 8], [3, 11], (0, 0, 1)),
        (BISENETV2, [4, 8, 16, 32], [3, 11, 11, 11], 1),  # the main head is finer than auxiliary heads
    ],
)
def test_the_main_head_reads_levels_of_its_strides_from_the_last_block(name, strides, blocks, read):
    model = replaced(name)
    assert (model.backbone.out_strides, model.backbone.get("out_indices")) == (strides, blocks)
    assert model.decode_head.in_index == read


def test_the_depth_of_the_variant_gives_the_last_block():
    assert replaced(FCN, "small_24_p16").backbone.out_indices == [11, 23]


def test_auxiliary_heads_read_the_level_before():
    assert replaced(FCN).auxiliary_head.in_index == 0
    assert [head.in_index for head in replaced(BISENETV2).auxiliary_head] == [0, 1, 2, 3]


def test_heads_get_the_new_widths():
    model = replaced(DEEPLAB, "small_12_p16")
    assert (model.decode_head.in_channels, model.decode_head.c1_in_channels) == (384, 384)
    assert model.auxiliary_head.in_channels == 384
    assert replaced(UPERNET, "small_12_p16").decode_head.in_channels == [384] * 4
    assert [head.in_channels for head in replaced(OCRNET, "small_12_p16").decode_head] == [384, 384]
    assert replaced(CGNET, "small_12_p16").decode_head.channels == 384  # the head has no convolution of its own


def test_a_neck_gets_the_new_widths_and_heads_get_what_the_neck_returns():
    model = replaced(FASTFCN, "small_12_p16")
    assert model.neck.in_channels == (384, 384, 384)
    assert model.decode_head.in_channels == 2048  # made by the neck
    assert model.auxiliary_head.in_channels == 384  # passed on by the neck


@pytest.mark.parametrize("name", [BEIT, VIT])
def test_a_neck_that_makes_a_pyramid_leaves(name):
    model = replaced(name)
    assert model.neck is None
    assert model.backbone.out_strides == [4, 8, 16, 32]


def test_maps_have_one_size_where_a_head_needs_it():
    resize, tokens = replaced(DPT).neck
    assert (resize.type, resize.scales) == ("MultiLevelNeck", [0.25, 0.5, 1.0, 2.0])
    assert tokens.type == "MeanTokens"


def test_a_head_that_calls_view_gets_contiguous_maps():
    assert replaced(DMNET).neck.type == "ContiguousLevels"


def test_branches_stay_and_the_xcit_replaces_the_backbone_inside():
    model = replaced(BISENETV1, "small_12_p16")
    assert model.backbone.type == "BiSeNetV1"
    assert model.backbone.backbone_cfg.type == "XCiT"
    assert [head.in_channels for head in model.auxiliary_head] == [192, 192]
    model = replaced(STDC, "small_12_p16")
    assert model.backbone.backbone_cfg.out_strides == [8, 16, 32]
    assert model.auxiliary_head[2].in_channels == 384


def test_the_branches_of_pidnet_are_made_of_one_level():
    model = replaced(PIDNET)
    assert (model.backbone.out_strides, model.backbone.out_indices) == ([8], [11])
    assert (model.neck.in_channels, model.neck.out_channels) == (128, [64, 128, 64])


def test_the_attention_of_psanet_covers_the_same_part_of_the_image():
    assert theirs(PSANET).model.decode_head.mask_size == (97, 97)
    assert replaced(PSANET).decode_head.mask_size == (49, 49)  # stride 16 instead of 8


def test_a_backbone_of_a_missing_library_is_replaced_and_its_import_leaves():
    config = theirs(CONVNEXT)
    config.custom_imports.imports = ["a_missing_library.models"]
    config.model.backbone.type = "a_missing_library.ConvNeXt"
    after = replace_backbone(config, "nano_12_p16")
    assert after.custom_imports.imports == []
    assert after.model.backbone.out_strides == [4, 8, 16, 32]
    config.model.decode_head.update(in_index=[0, 1], in_channels=[96, 192])
    with raises_user_error("a_missing_library.ConvNeXt", "not registered", "ResNet"):
        replace_backbone(config, "nano_12_p16")


def test_a_model_without_a_backbone_and_a_border_of_the_old_backbone_are_refused():
    with raises_user_error("no model with a backbone"):
        replaced("san/san-vit-b16_coco-stuff164k-640x640")
    with raises_user_error("border", "vpd_sd_4xb8-25k_nyu-512x512"):
        replaced("vpd/vpd_sd_4xb8-25k_nyu-480x480")


@pytest.mark.parametrize("name", [FCN, VIT, DPT, PIDNET, BISENETV1, CONVNEXT])
def test_the_check_passes_and_the_written_difference_gives_the_config(name, tmp_path):
    before = theirs(name)
    after = replace_backbone(before, "nano_12_p16", weights=None)
    add_import(after)
    check_config(after, loaders=())
    path = tmp_path / "leaf.py"
    path.write_text(write_difference(library_configs("mmseg")[f"{name}.py"].as_posix(), before, after), "utf-8")
    assert Config.fromfile(path).model.to_dict() == after.model.to_dict()
