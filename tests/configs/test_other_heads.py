"""The configs of heads without published figures equal the recipes of the MM libraries, and each config builds."""

import copy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.helpers.recipes import library_parts, plain
from xcit_dense import VARIANTS
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
MMDET, MMSEG = (Path(find_spec(library).origin).parent / ".mim/configs" for library in ("mmdet", "mmseg"))

CASCADE = "convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco"
# The config of MMDetection or MMSegmentation from which a config of this package takes the head.
SOURCES = {
    "detection/cascade_mask_rcnn_xcit_s12": CASCADE,
    "detection/mask2former_xcit_s12": "mask2former/mask2former_r50_8xb2-lsj-50e_coco",
    "detection/mask2former_xcit_s12_panoptic": "mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic",
    "detection/dino_xcit_s12": "dino/dino-4scale_r50_8xb2-12e_coco",
    "detection/retinanet_xcit_s12": "retinanet/retinanet_r50_fpn_1x_coco",
    "detection/rtmdet_xcit_s12": "rtmdet/rtmdet_l_swin_b_4xb32-100e_coco",
    "segmentation/mask2former_xcit_s12": "mask2former/mask2former_r50_8xb2-160k_ade20k-512x512",
    "segmentation/segformer_xcit_s12": "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512",
    "segmentation/deeplabv3plus_xcit_s12": "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512",
    "segmentation/fcn_xcit_s12": "fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512",
}
HEADS = {name.partition("_xcit_")[0] for name in SOURCES}
FULL = [CONFIGS / f"{name}.py" for name in SOURCES]
SHAPES = sorted(path for head in HEADS for path in CONFIGS.glob(f"{head}_xcit_*_shapes.py"))
DETECTORS = [path for path in FULL if path.parent.name == "detection"]
WITH_QUERIES = [path for path in FULL if path.stem.startswith(("mask2former", "dino"))]
LEVELS_OF_HEADS = {f"{head}_head.{key}" for head in ("decode", "auxiliary") for key in ("in_channels", "in_index")}
# The model fields in which a config differs from its source: the number and width of the levels, or what fits an XCiT.
DIFFERENT = {
    "detection/dino_xcit_s12": {"neck.in_channels"},
    "detection/retinanet_xcit_s12": {"neck.in_channels", "neck.start_level"},
    "detection/rtmdet_xcit_s12": {"neck.in_channels"},
    "detection/cascade_mask_rcnn_xcit_s12": {"neck.in_channels"},
    "detection/mask2former_xcit_s12": {"panoptic_head.in_channels", "data_preprocessor.seg_pad_value"},
    "detection/mask2former_xcit_s12_panoptic": {"panoptic_head.in_channels"},
    "segmentation/mask2former_xcit_s12": {"decode_head.in_channels"},
    "segmentation/segformer_xcit_s12": {"decode_head.in_channels"},
    "segmentation/fcn_xcit_s12": LEVELS_OF_HEADS,
    "segmentation/deeplabv3plus_xcit_s12": {
        *LEVELS_OF_HEADS,
        "decode_head.c1_in_channels",
        "decode_head.dilations",
    },
}


def name_of(path):
    """The name of a config with its task."""
    return f"{path.parent.name}/{path.stem}"


of_each = pytest.mark.parametrize("path", [*FULL, *SHAPES], ids=name_of)
of_each_full = pytest.mark.parametrize("path", FULL, ids=name_of)
of_each_shapes = pytest.mark.parametrize("path", SHAPES, ids=name_of)
of_each_with_queries = pytest.mark.parametrize("path", WITH_QUERIES, ids=name_of)


def read_source(path):
    """Reads the library's config from which a config takes the head."""
    library = MMDET if path.parent.name == "detection" else MMSEG
    return Config.fromfile(library / f"{SOURCES[name_of(path)]}.py", import_custom_modules=False)


def flatten(node, prefix=""):
    """Flattens nested dictionaries, and lists of dictionaries, to one dictionary with dotted keys."""
    if isinstance(node, list) and any(isinstance(value, dict) for value in node):
        node = dict(enumerate(node))
    if not isinstance(node, dict) or not node:
        return {prefix.removesuffix("."): node}
    return {key: value for name, child in node.items() for key, value in flatten(child, f"{prefix}{name}.").items()}


def model_fields(config):
    """The fields of a model around its backbone. Fields of the library that have the default value are left out."""
    fields = flatten(library_parts(plain(config.model.to_dict())))
    left_out = ("backbone.", "pretrained", "test_cfg.crop_size", "test_cfg.stride")
    kept = (key for key in fields if not key.startswith(left_out) and not key.endswith("requires_grad"))
    return {key: fields[key] for key in kept}


# Every config


def test_each_head_has_a_config_and_a_shapes_sibling():
    assert all(path.is_file() for path in FULL)
    assert {name_of(path).partition("_xcit_")[0] for path in SHAPES} == HEADS
    tested_elsewhere = {"detection/mask_rcnn", "segmentation/sem_fpn", "segmentation/upernet"}
    heads = {name_of(path).partition("_xcit_")[0] for path in CONFIGS.glob("*/*_xcit_*.py")}
    assert heads == HEADS | tested_elsewhere


@of_each
def test_model_optimizer_pipelines_hooks_and_schedules_build(path, everything_builds):
    everything_builds(path)


@of_each
def test_the_widths_and_strides_of_neck_and_head_are_those_of_the_backbone(path, built):
    model, config = built(path).model, built(path).config.model
    backbone = model.backbone
    width = VARIANTS[config.backbone.variant].embed_dim
    assert backbone.out_channels == (width,) * len(backbone.out_strides)
    readers = [config.neck] if "neck" in config else [config[key] for key in config if key.endswith("_head")]
    for reader in readers:
        given = reader.get("in_channels")
        if isinstance(given, int):
            assert given == width
            assert reader.in_index < len(backbone.out_strides)
        elif given is not None:
            assert list(given) == list(backbone.out_channels)
    if hasattr(model, "bbox_head") and hasattr(model.bbox_head, "prior_generator"):
        strides = [stride[0] for stride in model.bbox_head.prior_generator.strides]
        assert tuple(strides[: len(backbone.out_strides)]) == backbone.out_strides
    if hasattr(config, "panoptic_head"):
        assert tuple(config.panoptic_head.strides) == backbone.out_strides


# The recipes


@of_each_full
def test_the_model_around_the_backbone_is_the_librarys_own(path, read):
    ours, theirs = model_fields(read(path)), model_fields(read_source(path))
    missing = object()
    differ = {key for key in ours | theirs if ours.get(key, missing) != theirs.get(key, missing)}
    # The numbers of classes in MMSegmentation's base are those of Cityscapes in some versions.
    assert differ == DIFFERENT[name_of(path)]
    assert len(ours) > 15


@of_each_full
def test_a_config_says_that_no_figures_were_published_and_starts_from_a_classifier(path, starts_from, read):
    assert path.read_text().startswith("# No figures were published for this model")
    weights = starts_from(path)
    assert (
        (weights.task, weights.variant)
        == ("classification", read(path).model.backbone.variant)
        == (
            "classification",
            "small_12_p16",
        )
    )
    assert len(path.read_text().splitlines()) <= 26


@of_each_full
def test_images_are_prepared_as_in_the_librarys_recipe(path, read):
    ours, theirs = read(path), read_source(path)
    if path.stem == "retinanet_xcit_s12":  # the images of XCiT's recipe
        theirs = read(path.with_stem("mask_rcnn_xcit_s12"))
    got, expected = (
        [
            {key: value for key, value in step.items() if key not in ("backend_args", "with_mask")}
            for step in plain(config.train_dataloader.dataset.pipeline.copy())
        ]
        for config in (ours, theirs)
    )
    if path.stem == "dino_xcit_s12":  # MMDetection writes a limit of 4200 that no image of COCO reaches
        expected[3]["transforms"][1][0]["scales"] = [[side, 1333] for side in (400, 500, 600)]
    assert got == expected
    if path.stem not in ("deeplabv3plus_xcit_s12", "fcn_xcit_s12"):  # 4 processes of 4 instead of 8 of 2
        assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size


@of_each_full
def test_the_length_of_the_training_is_the_librarys(path, read):
    ours, theirs = read(path).train_cfg, read_source(path).train_cfg
    for key in ("max_epochs", "max_iters"):
        assert ours.get(key) == theirs.get(key)


@of_each_full
def test_the_optimizer_is_that_of_xcit_and_norms_do_not_decay(path, learning, read):
    task = "mask_rcnn" if path.parent.name == "detection" or path in WITH_QUERIES else "upernet"
    (own,) = CONFIGS.glob(f"*/{task}_xcit_s12.py")
    optimizer = {**read(own).optim_wrapper.optimizer}
    if path.stem == "rtmdet_xcit_s12":
        optimizer["lr"] = 1e-3  # for 128 images instead of 16
    assert read(path).optim_wrapper.optimizer == optimizer
    got = learning(path)
    decays = {name for name, (_, decay) in got.items() if decay}
    assert {decay for _, decay in got.values()} == {0.0, optimizer["weight_decay"]}
    assert not any("norm" in name for name in decays)
    embeddings = ("query_embed", "query_feat", "level_embed")
    assert all("norm" in name or any(key in name for key in embeddings) for name in got.keys() - decays)


@of_each_with_queries
def test_the_backbone_learns_at_a_tenth_of_the_rate_under_a_head_with_queries(path, learning, read):
    highest = read(path).optim_wrapper.optimizer.lr
    for name, (rate, _) in learning(path).items():
        assert rate == pytest.approx(highest / 10 if name.startswith("backbone.") else highest), name
    assert read(path).optim_wrapper.clip_grad == read_source(path).optim_wrapper.clip_grad


def test_the_head_of_segformer_learns_at_ten_times_the_rate(learning, read):
    path = CONFIGS / "segmentation/segformer_xcit_s12.py"
    rates = {name.partition(".")[0]: rate for name, (rate, _) in learning(path).items()}
    assert rates == {"backbone": pytest.approx(6e-5), "decode_head": pytest.approx(6e-4)}


@pytest.mark.parametrize("name", ["dino_xcit_s12", "mask2former_xcit_s12", "mask2former_xcit_s12_panoptic"])
def test_the_rate_falls_when_the_librarys_does(name, read):
    path = CONFIGS / f"detection/{name}.py"
    (ours,) = read(path).param_scheduler
    theirs = read_source(path).param_scheduler
    assert ours == (theirs if isinstance(theirs, dict) else theirs[0])


def test_rtmdet_averages_weights_and_ends_without_mosaics(read):
    path = CONFIGS / "detection/rtmdet_xcit_s12.py"
    ours, theirs = read(path), read_source(path)
    own = [hook for hook in ours.custom_hooks if hook.type in ("EMAHook", "PipelineSwitchHook")]
    for got, expected in zip(own, theirs.custom_hooks, strict=True):
        assert plain(got) == {key: value for key, value in plain(expected).items() if key != "backend_args"} or (
            got.type == "PipelineSwitchHook"
        )
    switch = own[1]
    assert switch.switch_epoch == theirs.custom_hooks[1].switch_epoch
    assert [step.type for step in switch.switch_pipeline] == [
        step.type for step in theirs.custom_hooks[1].switch_pipeline
    ]
    assert [plain(each) for each in ours.param_scheduler] == [plain(each) for each in theirs.param_scheduler]


def test_deeplab_and_fcn_read_the_last_block_at_stride_16(built):
    for name, strides, blocks in (("deeplabv3plus", (4, 8, 16), (3, 7, 11)), ("fcn", (8, 16), (7, 11))):
        model = built(CONFIGS / f"segmentation/{name}_xcit_s12.py").model
        assert model.backbone.out_strides == strides
        assert tuple(model.backbone.out_indices) == blocks
        assert strides[model.decode_head.in_index] == 16
        assert strides[model.auxiliary_head.in_index] == 8


# The embedded data set


@of_each_shapes
def test_a_shapes_config_passes_the_check_of_configs(path, shapes):
    config = load_config(path, data_root=str(shapes))
    check_config(config)
    assert config.model.backbone.get("init_cfg") is None
    assert config.model.backbone.variant.startswith("nano_12")


# RTMDet's scores learn the overlap of boxes and objects. So the loss of the scores grows while the boxes become better.
FALLING = {"rtmdet_xcit_n12_p8_shapes": "loss_bbox"}
TRAINED_ALWAYS = ("dino_xcit_n12_p8_shapes", "deeplabv3plus_xcit_n12_p8_shapes")


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in TRAINED_ALWAYS else pytest.mark.slow) for path in SHAPES],
    ids=name_of,
)
def test_the_loss_falls_and_every_parameter_of_the_backbone_learns(path, shapes):
    from mmengine.dataset import pseudo_collate
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import DATASETS

    config = load_config(path, {"optim_wrapper.optimizer.lr": 5e-4}, data_root=str(shapes))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(copy.deepcopy(config.model))
        model.init_weights()
        optim = build_optim_wrapper(model, config.optim_wrapper)
        dataset = DATASETS.build(config.train_dataloader.dataset)
        batch = pseudo_collate([dataset[0], dataset[1]])
        before = {name: value.detach().clone() for name, value in model.backbone.named_parameters()}
        model.train()
        name = FALLING.get(path.stem, "loss")
        losses = [model.train_step(batch, optim)[name].item() for _ in range(6)]
    assert sum(losses[-2:]) / 2 < losses[0], losses
    still = [name for name, value in model.backbone.named_parameters() if torch.equal(value, before[name])]
    assert not still, "parameters that did not learn"


# Test-time augmentation


@pytest.mark.parametrize("path", DETECTORS, ids=name_of)
def test_detectors_are_tested_at_three_sizes_each_plain_and_mirrored(path, read):
    config = read(path)
    if path.stem.endswith("_panoptic"):
        assert "tta_pipeline" not in config
        return
    sizes, flips, *_ = config.tta_pipeline[1].transforms
    normal = next(step.scale for step in config.test_dataloader.dataset.pipeline if step.type == "Resize")
    assert sizes[0].scale == normal
    assert len({step.scale for step in sizes}) == 3
    assert [step.prob for step in flips] == [0.0, 1.0]
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        model = MODELS.build({**config.tta_model, "module": copy.deepcopy(config.model)})
    assert SimpleNamespace(**vars(model)).max_per_img == 100
