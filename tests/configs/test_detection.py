"""The detection configs against the published recipe, and that each of them builds."""

import itertools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, PARAM_SCHEDULERS, DefaultScope

from xcit_dense import VARIANTS
from xcit_dense.data import CLASSES, PALETTE
from xcit_dense.mm.config import load_config
from xcit_dense.zoo import CLASSIFIERS, SCHEME

DIRECTORY = Path(__file__).parents[2] / "configs" / "detection"
LEAVES = sorted(DIRECTORY.glob("*.py"))
PUBLISHED = [leaf for leaf in LEAVES if "_base_/mask_rcnn_3x_coco.py" in leaf.read_text()]
S12 = DIRECTORY / "mask_rcnn_xcit_s12.py"
SHAPES = DIRECTORY / "mask_rcnn_xcit_n12_p8_shapes.py"
SHORT_SIDES = list(range(480, 801, 32))
LONG_SIDE = 1333

of_each = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
of_each_published = pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def build_model(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config.model)


@pytest.fixture(scope="module")
def s12():
    """The S12 config, the detector built from it, and its optimizer."""
    config = Config.fromfile(S12)
    model = build_model(config)
    return SimpleNamespace(config=config, model=model, optim=build_optim_wrapper(model, config.optim_wrapper))


@pytest.fixture
def recipe(reference):
    """The published recipe of a config, found by its backbone's variant."""
    recipes = reference("recipes")

    def find(config):
        return recipes[f"mask_rcnn_xcit_{config.model.backbone.variant}_3x_coco"]

    return find


# Every config


@of_each
def test_model_optimizer_pipelines_and_hooks_build(path):
    config = Config.fromfile(path)
    model = build_model(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert sum(len(group["params"]) for group in wrapper.optimizer.param_groups) == len(list(model.parameters()))
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        Compose(config[loader].dataset.pipeline)
    for hook in config.custom_hooks:
        HOOKS.build(hook)
    for scheduler in config.param_scheduler:
        PARAM_SCHEDULERS.build({**scheduler, "optimizer": wrapper, "epoch_length": 100})


@of_each
def test_widths_strides_and_levels_agree(path):
    config = Config.fromfile(path)
    model = build_model(config)
    neck, rpn, roi = config.model.neck, model.rpn_head, model.roi_head
    width = VARIANTS[config.model.backbone.variant].embed_dim
    assert tuple(neck.in_channels) == model.backbone.out_channels == (width,) * 4
    strides = model.backbone.out_strides
    assert rpn.in_channels == roi.bbox_head.in_channels == config.model.roi_head.mask_head.in_channels
    assert rpn.in_channels == neck.out_channels
    assert [stride[0] for stride in rpn.prior_generator.strides] == [4, 8, 16, 32, 64][: neck.num_outs]
    for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        assert extractor.out_channels == neck.out_channels
        assert tuple(extractor.featmap_strides) == strides
    assert roi.bbox_head.num_classes == roi.mask_head.num_classes


@of_each
def test_truth_is_evaluated_at_the_pictures_own_annotations(path):
    config = Config.fromfile(path)
    for dataset, evaluator in (("val_dataloader", "val_evaluator"), ("test_dataloader", "test_evaluator")):
        dataset = config[dataset].dataset
        assert config[evaluator].ann_file == dataset.data_root + dataset.ann_file
        assert config[evaluator].metric == ["bbox", "segm"]
        assert dataset.test_mode is True
    assert config.train_dataloader.dataset.ann_file != config.val_dataloader.dataset.ann_file


@of_each
def test_it_starts_from_published_weights_of_its_own_variant_or_from_none(path):
    backbone = Config.fromfile(path).model.backbone
    if backbone.get("init_cfg"):
        name = backbone.init_cfg.checkpoint.removeprefix(SCHEME)
        assert name in CLASSIFIERS
        assert name.startswith(backbone.variant + "_")


@of_each_published
def test_a_leaf_says_only_what_makes_it_different(path):
    assert len(path.read_text().splitlines()) <= 14


# The published recipe


@of_each_published
def test_the_backbone_is_the_published_one(path, recipe):
    config = Config.fromfile(path)
    published = recipe(config)["backbone"]
    backbone = build_model(config).backbone
    block = backbone.blocks[0]
    built = {
        "patch_size": backbone.patch_size,
        "embed_dim": backbone.embed_dim,
        "depth": len(backbone.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / backbone.embed_dim,
        "qkv_bias": block.attn.qkv.bias is not None,
        "drop_path_rate": config.model.backbone.drop_path_rate,
        "out_indices": list(backbone.out_indices),
    }
    if config.model.backbone.variant == "medium_24_p16":
        published["patch_size"] = 16  # the published config's own error
    eta = published.pop("eta", None)
    assert built == published
    assert eta is None or torch.allclose(block.gamma1, torch.tensor(eta))


@of_each_published
def test_neck_strides_batch_and_length_are_the_published_ones(path, recipe):
    config = Config.fromfile(path)
    published = recipe(config)
    assert published["neck"] == {**config.model.neck, "in_channels": list(config.model.neck.in_channels)}
    assert list(config.model.rpn_head.anchor_generator.strides) == published["anchor_strides"]
    assert list(config.model.roi_head.bbox_roi_extractor.featmap_strides) == published["bbox_strides"]
    assert list(config.model.roi_head.mask_roi_extractor.featmap_strides) == published["mask_strides"]
    assert config.train_dataloader.batch_size == published["samples_per_gpu"]
    assert config.auto_scale_lr.base_batch_size == 8 * published["samples_per_gpu"]
    assert config.auto_scale_lr.enable is False
    assert config.train_cfg.max_epochs == published["runner"]["max_epochs"]
    assert config.train_cfg.by_epoch if "by_epoch" in config.train_cfg else "Epoch" in config.train_cfg.type
    assert config.model.roi_head.bbox_head.num_classes == 80


def test_mixed_precision_is_used_where_there_is_a_gpu(s12):
    assert s12.config.optim_wrapper.type == "AutoAmpOptimWrapper"


def published_decay(name, optimizer):
    """Weight decay of a parameter by mmcv's rule: the longest key in its name decides, of equals the first."""
    keys = optimizer["paramwise_cfg"]["custom_keys"]
    for key in sorted(sorted(keys), key=len, reverse=True):
        if key in name:
            return optimizer["weight_decay"] * keys[key]["decay_mult"]
    return optimizer["weight_decay"]


def test_each_parameter_learns_and_decays_as_published(s12, recipe):
    published = recipe(s12.config)["optimizer"]
    optimizer = s12.optim.optimizer
    assert type(optimizer).__name__ == published["type"]
    names = {id(parameter): name for name, parameter in s12.model.named_parameters()}
    got = {}
    for group in optimizer.param_groups:
        assert list(group["betas"]) == published["betas"]
        for parameter in group["params"]:
            got[names.pop(id(parameter))] = group["lr"], group["weight_decay"]
    assert not names, "parameters that do not learn"
    assert got == {name: (published["lr"], published_decay(name, published)) for name in got}
    assert {name for name, (_, decay) in got.items() if decay == 0} == {name for name in got if "norm" in name}
    assert set(dict(s12.model.backbone.named_parameters())) <= {name.removeprefix("backbone.") for name in got}
    assert Counter(decay for _, decay in got.values()).keys() == {0.0, 0.05}


def learning_rates(config, wrapper, epoch_length):
    """Rates of each iteration of a whole training, stepped as a Runner steps its schedulers."""
    schedulers = [
        PARAM_SCHEDULERS.build({**scheduler, "optimizer": wrapper, "epoch_length": epoch_length})
        for scheduler in config.param_scheduler
    ]
    runner, hook = SimpleNamespace(param_schedulers=schedulers), ParamSchedulerHook()
    for _ in range(config.train_cfg.max_epochs):
        for batch in range(epoch_length):
            rates = {group["lr"] for group in wrapper.optimizer.param_groups}
            assert len(rates) == 1
            yield rates.pop()
            hook.after_train_iter(runner, batch)
        hook.after_train_epoch(runner)


@of_each_published
def test_the_rate_warms_up_and_falls_as_published(path, recipe):
    config = Config.fromfile(path)
    published, rule = recipe(config)["optimizer"], recipe(config)["lr_config"]
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), config.optim_wrapper)
    epoch_length = 20
    rates = list(learning_rates(config, wrapper, epoch_length))
    assert len(rates) == 36 * epoch_length
    for iteration in (0, 1, 100, 250, 499, 500, 501):
        warm_up = 1 - (1 - min(iteration / rule["warmup_iters"], 1)) * (1 - rule["warmup_ratio"])
        assert rates[iteration] == pytest.approx(published["lr"] * warm_up, rel=1e-9)
    for iteration in range(rule["warmup_iters"], len(rates)):
        falls = sum(iteration // epoch_length >= epoch for epoch in rule["step"])
        assert rates[iteration] == pytest.approx(published["lr"] * 0.1**falls, rel=1e-9)


# Pictures


@pytest.fixture(scope="module")
def pictures(shared):
    """The S12 config's data on real pictures."""
    config = load_config(S12, data_root=str(shared / "data" / "coco128"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        return {loader: DATASETS.build(config[loader].dataset) for loader in ("train_dataloader", "val_dataloader")}


@pytest.fixture(scope="module")
def drawn(pictures):
    """A landscape picture, 640 x 480, from 100 passes through the training pipeline."""
    dataset = pictures["train_dataloader"]
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


def whole(sample):
    """Whether the picture was not cropped before its last resize."""
    return np.allclose(sample.before, (480, 640), atol=2)


def test_training_pictures_have_one_of_the_published_sizes(drawn):
    sides = {min(sample.size) for sample in drawn}
    assert sides == set(SHORT_SIDES)
    assert max(max(sample.size) for sample in drawn) <= LONG_SIDE


def test_half_of_the_training_pictures_are_cropped_to_384_to_600_pixels(drawn):
    cropped = [sample.before for sample in drawn if not whole(sample)]
    assert len(cropped) == pytest.approx(len(drawn) / 2, abs=15)
    for height, width in cropped:
        assert 384 - 1 <= height <= 600 + 1
        assert 384 - 1 <= width <= 600 + 1
    assert len({round(height / width, 1) for height, width in cropped}) > 4, "always the same crop"


def test_half_of_the_training_pictures_are_flipped_independently_of_the_crop(drawn):
    counts = Counter((sample.flip, whole(sample)) for sample in drawn)
    assert all(counts[pair] > len(drawn) / 8 for pair in itertools.product((True, False), repeat=2)), counts


def test_a_long_picture_is_limited_by_its_long_side(pictures):
    dataset = pictures["train_dataloader"]
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    info = next(info for info in infos if info["width"] > 2.5 * info["height"])
    np.random.seed(0)
    assert max(max(dataset.pipeline(dict(info))["inputs"].shape) for _ in range(12)) == LONG_SIDE


def test_test_pictures_are_resized_whole_to_800_by_1333(pictures):
    dataset = pictures["val_dataloader"]
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


def test_images_are_normalised_as_rgb_and_padded_to_a_multiple_of_32(s12):
    colour = torch.tensor([103.53, 116.28, 123.675])  # ImageNet's mean as OpenCV reads it: blue, green, red
    image = colour.round().to(torch.uint8)[:, None, None].expand(3, 40, 50)
    batch = s12.model.data_preprocessor({"inputs": [image, image[:, :30, :30]]}, training=False)["inputs"]
    assert batch.shape == (2, 3, 64, 64)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (colour.round().flip(0) - mean) / std
    assert torch.allclose(batch[0, :, 0, 0], expected, atol=1e-5)
    assert (batch[1, :, 30:] == 0).all()
    assert (batch[1, :, :, 30:] == 0).all()


# The embedded data set


def test_the_shapes_configs_classes_are_those_of_the_shapes(shapes):
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
