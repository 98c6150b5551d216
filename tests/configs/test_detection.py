"""The detection configs equal the published recipe, and each config builds."""

import itertools
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.registry import DATASETS, MODELS, DefaultScope

from tests.helpers.configs import config_named
from xcit_dense import VARIANTS
from xcit_dense.datasets.shapes import CLASSES, PALETTE
from xcit_dense.mm.config.load import load_config

DIRECTORY = Path(__file__).parents[2] / "configs" / "detection"
# tests/configs/test_other_heads.py tests the configs of other heads.
LEAVES = sorted(path for path in DIRECTORY.glob("*.py") if "mask_rcnn_" in path.stem)
OF_VARIANTS = [leaf for leaf in LEAVES if re.fullmatch(r"mask_rcnn_xcit_[a-z]\d+(_p8)?", leaf.stem)]
NOTE = re.compile(r"# Nobody published this one; the recipe is that of (\w+)\.\n")
PUBLISHED = [leaf for leaf in OF_VARIANTS if not NOTE.search(leaf.read_text())]
UNPUBLISHED = [leaf for leaf in OF_VARIANTS if leaf not in PUBLISHED]
S12 = DIRECTORY / "mask_rcnn_xcit_s12.py"
S12_1X = DIRECTORY / "mask_rcnn_xcit_s12_1x.py"
SHAPES = DIRECTORY / "mask_rcnn_xcit_n12_p8_shapes.py"
SHORT_SIDES = list(range(480, 801, 32))
LONG_SIDE = 1333

of_each = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
of_each_variant = pytest.mark.parametrize("path", OF_VARIANTS, ids=lambda path: path.stem)
of_each_published = pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
of_each_unpublished = pytest.mark.parametrize("path", UNPUBLISHED, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


# Every config


@of_each
def test_model_optimizer_pipelines_hooks_and_schedules_build(path, everything_builds):
    everything_builds(path)


@of_each
def test_every_parameter_learns_at_the_same_rate_unless_asked_otherwise(path, learning, read):
    options = read(path).optim_wrapper
    rates = {rate for rate, _ in learning(path).values()}
    assert max(rates) == options.optimizer.lr
    assert (len(rates) == 1) == ("layer_decay" not in options.paramwise_cfg)


@of_each
def test_the_rate_rises_to_the_rate_of_the_optimizer_and_falls_to_a_hundredth(path, learning_rates, read):
    rates, highest = learning_rates(read(path)), read(path).optim_wrapper.optimizer.lr
    assert rates[0] < highest / 10
    assert max(rates) == pytest.approx(highest)
    assert rates[-1] <= highest / 100 * (1 + 1e-9)


@of_each
def test_widths_strides_and_levels_agree(path, built):
    config, model = built(path).config, built(path).model
    rpn, roi = model.rpn_head, model.roi_head
    if config.model.backbone.type == "XCiT":
        assert model.backbone.out_channels == (VARIANTS[config.model.backbone.variant].embed_dim,) * 4
    assert tuple(model.neck.in_channels) == model.backbone.out_channels
    strides = model.backbone.out_strides
    assert rpn.in_channels == config.model.roi_head.mask_head.in_channels == model.neck.out_channels
    assert [stride[0] for stride in rpn.prior_generator.strides] == [4, 8, 16, 32, 64][: model.neck.num_outs]
    for extractor in (*stages(roi.bbox_roi_extractor), *stages(roi.mask_roi_extractor)):
        assert extractor.out_channels == model.neck.out_channels
        assert tuple(extractor.featmap_strides) == strides
    (classes,) = {head.num_classes for head in (*stages(roi.bbox_head), *stages(roi.mask_head))}
    assert classes == config.model.roi_head.mask_head.num_classes
    assert {head.in_channels for head in stages(roi.bbox_head)} == {model.neck.out_channels}


def stages(part):
    """The parts of a cascade, or the one part of another head."""
    return part if isinstance(part, torch.nn.ModuleList) else [part]


@of_each
def test_evaluation_reads_the_annotation_file_of_the_test_images(path, read):
    config = read(path)
    for dataset, evaluator in (("val_dataloader", "val_evaluator"), ("test_dataloader", "test_evaluator")):
        dataset = config[dataset].dataset
        assert config[evaluator].ann_file == dataset.data_root + dataset.ann_file
        assert config[evaluator].metric == ["bbox", "segm"]
        assert dataset.test_mode is True
    assert config.train_dataloader.dataset.ann_file != config.val_dataloader.dataset.ann_file


# Leaves


def test_every_variant_has_its_leaf(read):
    assert {path.stem: read(path).model.backbone.variant for path in OF_VARIANTS} == config_named("mask_rcnn")
    assert set(config_named("mask_rcnn").values()) == set(VARIANTS)


@pytest.mark.parametrize("path", [*OF_VARIANTS, S12_1X], ids=lambda path: path.stem)
def test_a_leaf_contains_only_what_differs_from_its_base(path):
    assert len(path.read_text().splitlines()) <= 14


@pytest.mark.parametrize("path", [*OF_VARIANTS, S12_1X], ids=lambda path: path.stem)
def test_a_leaf_starts_from_a_published_classifier_of_its_own_variant(path, starts_from, read):
    weights = starts_from(path)
    assert (weights.task, weights.variant) == ("classification", read(path).model.backbone.variant)


def test_the_shapes_config_starts_from_random_weights(starts_from):
    assert starts_from(SHAPES) is None


@of_each_unpublished
def test_an_unpublished_leaf_takes_the_recipe_of_the_published_neighbour_that_it_names(path, changes):
    neighbour = path.with_stem(f"mask_rcnn_xcit_{NOTE.search(path.read_text())[1]}")
    assert neighbour in PUBLISHED
    assert neighbour.stem.endswith("_p8") == path.stem.endswith("_p8")
    own = {"variant", "init_cfg.checkpoint"}
    assert {f"model.backbone.{name}" for name in own} <= changes(path, neighbour)
    assert changes(path, neighbour) <= {"model.neck.in_channels", *(f"model.backbone.{name}" for name in own)}


def test_the_leaf_with_vt_fpn_differs_only_in_the_neck(changes, starts_from):
    leaf = DIRECTORY / "mask_rcnn_xcit_s12_vtfpn.py"
    assert changes(leaf, S12) == {"model.neck.type"}
    assert starts_from(leaf).variant == "small_12_p16"


def test_the_shapes_config_with_vt_fpn_differs_only_in_the_neck(changes):
    leaf = DIRECTORY / "mask_rcnn_xcit_n12_p8_vtfpn_shapes.py"
    assert changes(leaf, SHAPES) == {"model.neck.type", "model.neck.token_channels"}


# The published recipe


def test_every_published_recipe_has_its_config(recipe_name, reference):
    names = [name for name in reference("recipes") if name.startswith("mask_rcnn_")]
    assert len(names) == 8
    assert sorted(map(recipe_name, PUBLISHED)) == sorted(names)


@of_each_published
def test_every_field_is_the_published_one(path, built, fields, published_fields, describe):
    model = built(path).model
    heads = {
        "anchor_strides": [stride[0] for stride in model.rpn_head.prior_generator.strides],
        "bbox_strides": describe(model.roi_head.bbox_roi_extractor, "featmap_strides")["featmap_strides"],
        "mask_strides": describe(model.roi_head.mask_roi_extractor, "featmap_strides")["featmap_strides"],
    }
    assert {**fields(path), **heads} == published_fields(path)


@of_each_published
def test_each_parameter_learns_and_decays_as_published(path, learning, published_learning):
    got = learning(path)
    assert got == published_learning(path)
    assert {name for name, (_, decay) in got.items() if decay == 0} == {name for name in got if "norm" in name}
    assert Counter(decay for _, decay in got.values()).keys() == {0.0, 0.05}


@of_each_published
def test_the_rate_warms_up_and_falls_as_published(path, read, recipe, learning_rates):
    rule, highest = recipe(path)["lr_config"], recipe(path)["optimizer"]["lr"]
    assert (rule.pop("policy"), rule.pop("warmup")) == ("step", "linear")
    length, ratio, falls = rule.pop("warmup_iters"), rule.pop("warmup_ratio"), rule.pop("step")
    assert not rule
    epoch_length = 20
    rates = learning_rates(read(path), epoch_length)
    assert len(rates) == recipe(path)["runner"]["max_epochs"] * epoch_length == 36 * epoch_length
    for iteration, rate in enumerate(rates):
        warm_up = 1 - (1 - min(iteration / length, 1)) * (1 - ratio)
        fallen = sum(iteration // epoch_length >= epoch for epoch in falls)
        assert rate == pytest.approx(highest * warm_up * 0.1**fallen, rel=1e-9), iteration


@of_each_variant
def test_the_rate_is_meant_for_eight_processes_of_the_published_batch(path, read):
    config = read(path)
    assert (config.train_dataloader.batch_size, config.auto_scale_lr.base_batch_size) == (2, 16)
    assert config.auto_scale_lr.enable is False
    assert config.model.roi_head.bbox_head.num_classes == 80


def test_the_short_schedule_is_the_long_one_in_twelve_epochs(read, changes, learning_rates):
    assert changes(S12_1X, S12) == {"param_scheduler", "train_cfg.max_epochs"}
    epoch_length = 100
    short, long = (learning_rates(read(path), epoch_length) for path in (S12_1X, S12))
    assert len(short) == 12 * epoch_length
    assert short[: 8 * epoch_length] == long[: 8 * epoch_length]
    for epoch, fallen in {7: 0, 8: 1, 10: 1, 11: 2}.items():
        rates = short[epoch * epoch_length : (epoch + 1) * epoch_length]
        assert rates == pytest.approx([1e-4 * 0.1**fallen] * epoch_length)


# Images


@pytest.fixture(scope="module")
def images(shared):
    """The S12 config's data on real images."""
    config = load_config(S12, data_root=str(shared / "data" / "coco128"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        return {loader: DATASETS.build(config[loader].dataset) for loader in ("train_dataloader", "val_dataloader")}


@pytest.fixture(scope="module")
def drawn(images):
    """A landscape image, 640 x 480, from 100 passes through the training pipeline."""
    dataset = images["train_dataloader"]
    index = next(
        index
        for index in range(len(dataset))
        if (dataset.get_data_info(index)["height"], dataset.get_data_info(index)["width"]) == (480, 640)
    )
    state = np.random.get_state()
    np.random.seed(0)
    samples = []
    for _ in range(100):
        sample = dataset.pipeline(dataset.get_data_info(index))
        height, width = sample["inputs"].shape[1:]
        meta = sample["data_samples"].metainfo
        assert meta["img_shape"] == (height, width)
        before = height / meta["scale_factor"][1], width / meta["scale_factor"][0]
        masks = sample["data_samples"].gt_instances.masks
        assert (masks.height, masks.width) == (height, width)
        samples.append(SimpleNamespace(size=(height, width), before=before, flip=meta["flip"]))
    np.random.set_state(state)
    return samples


def is_uncropped(sample):
    """Whether the image was not cropped before its last resize."""
    return np.allclose(sample.before, (480, 640), atol=2)


def test_training_images_have_one_of_the_published_sizes(drawn):
    sides = {min(sample.size) for sample in drawn}
    assert sides == set(SHORT_SIDES)
    assert max(max(sample.size) for sample in drawn) <= LONG_SIDE


def test_half_of_the_training_images_are_cropped_to_384_to_600_pixels(drawn):
    cropped = [sample.before for sample in drawn if not is_uncropped(sample)]
    assert len(cropped) == pytest.approx(len(drawn) / 2, abs=15)
    for height, width in cropped:
        assert 384 - 1 <= height <= 600 + 1
        assert 384 - 1 <= width <= 600 + 1
    assert len({round(height / width, 1) for height, width in cropped}) > 4, "always the same crop"


def test_half_of_the_training_images_are_flipped_independently_of_the_crop(drawn):
    counts = Counter((sample.flip, is_uncropped(sample)) for sample in drawn)
    assert all(counts[pair] > len(drawn) / 8 for pair in itertools.product((True, False), repeat=2)), counts


def test_a_long_image_is_limited_by_its_long_side(images):
    dataset = images["train_dataloader"]
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    info = next(info for info in infos if info["width"] > 2.5 * info["height"])
    np.random.seed(0)
    assert max(max(dataset.pipeline(dict(info))["inputs"].shape) for _ in range(12)) == LONG_SIDE


def test_test_images_are_resized_to_800_by_1333_without_a_crop(images):
    dataset = images["val_dataloader"]
    seen = 0
    for index in range(0, len(dataset), 4):
        info = dataset.get_data_info(index)
        sample = dataset.pipeline(info)
        scale = min(800 / min(info["height"], info["width"]), LONG_SIDE / max(info["height"], info["width"]))
        expected = [info["height"] * scale, info["width"] * scale]
        assert np.allclose(sample["inputs"].shape[1:], expected, atol=1)
        assert not sample["data_samples"].metainfo.get("flip")
        assert {"img_id", "ori_shape", "scale_factor"} <= set(sample["data_samples"].metainfo)
        seen += 1
    assert seen


def test_images_are_normalised_as_rgb_and_padded_to_a_multiple_of_32(read):
    colour = torch.tensor([103.53, 116.28, 123.675])  # ImageNet's mean as OpenCV reads it: blue, green, red
    image = colour.round().to(torch.uint8)[:, None, None].expand(3, 40, 50)
    preprocessor = MODELS.build(read(S12).model.data_preprocessor)
    batch = preprocessor({"inputs": [image, image[:, :30, :30]]}, training=False)["inputs"]
    assert batch.shape == (2, 3, 64, 64)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (colour.round().flip(0) - mean) / std
    assert torch.allclose(batch[0, :, 0, 0], expected, atol=1e-5)
    assert (batch[1, :, 30:] == 0).all()
    assert (batch[1, :, :, 30:] == 0).all()


# The embedded data set


def test_the_shapes_config_has_the_classes_of_the_shapes(shapes):
    config = load_config(SHAPES, data_root=str(shapes))
    for loader in ("train_dataloader", "val_dataloader"):
        dataset = DATASETS.build(config[loader].dataset)
        assert dataset.metainfo["classes"] == CLASSES
        assert len(dataset) == {"train_dataloader": 8, "val_dataloader": 4}[loader]
        sample = dataset[0]
        assert sample["inputs"].dtype is torch.uint8
        assert set(sample["data_samples"].gt_instances.labels.tolist()) <= set(range(len(CLASSES)))
    assert tuple(config.train_dataloader.dataset.metainfo.palette) == PALETTE[1:]
    assert config.model.roi_head.bbox_head.num_classes == config.model.roi_head.mask_head.num_classes == len(CLASSES)
