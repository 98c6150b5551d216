"""The segmentation configs equal the published recipe, each config builds, and their pipelines transform images."""

import re
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import PixelData

from tests.helpers.configs import config_named
from tests.helpers.models import random_images
from xcit_dense import VARIANTS
from xcit_dense.datasets.shapes import PALETTE, SEGMENTATION_CLASSES
from xcit_dense.mm.config.load import load_config

DIRECTORY = Path(__file__).parents[2] / "configs" / "segmentation"
# tests/configs/test_other_heads.py tests the configs of other heads.
LEAVES = sorted(path for path in DIRECTORY.glob("*.py") if path.stem.startswith(("sem_fpn_", "upernet_")))
OF_VARIANTS = [leaf for leaf in LEAVES if re.fullmatch(r"(sem_fpn|upernet)_xcit_[a-z]\d+(_p8)?", leaf.stem)]
NOTE = re.compile(r"# Nobody published this one; the recipe is that of (\w+)\.\n")
PUBLISHED = [leaf for leaf in OF_VARIANTS if not NOTE.search(leaf.read_text())]
UNPUBLISHED = [leaf for leaf in OF_VARIANTS if leaf not in PUBLISHED]
SMALLEST = [DIRECTORY / f"{head}_xcit_n12.py" for head in ("sem_fpn", "upernet")]
SHAPES = [DIRECTORY / f"{head}_xcit_n12_p8_shapes.py" for head in ("sem_fpn", "upernet")]
IGNORED = 255

of_each = pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
of_each_variant = pytest.mark.parametrize("path", OF_VARIANTS, ids=lambda path: path.stem)
of_each_published = pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
of_each_unpublished = pytest.mark.parametrize("path", UNPUBLISHED, ids=lambda path: path.stem)
of_the_smallest = pytest.mark.parametrize("path", SMALLEST, ids=lambda path: path.stem)
of_each_shapes = pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmseg"):
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
    assert len(rates) == read(path).train_cfg.max_iters
    assert rates[0] < highest / 10
    assert 0.97 * highest < max(rates) <= highest * (1 + 1e-9)
    assert 0 < rates[-1] <= highest / 100


@of_each
def test_widths_and_strides_agree(path, built):
    config, model = built(path).config, built(path).model
    levels = list(model.backbone.out_channels)
    if config.model.backbone.type == "XCiT":
        assert levels == [VARIANTS[config.model.backbone.variant].embed_dim] * 4
    if model.with_neck:
        assert list(model.neck.in_channels) == levels
        levels = [model.neck.out_channels] * model.neck.num_outs
    heads = [model.decode_head, *([model.auxiliary_head] if model.with_auxiliary_head else [])]
    for head in heads:
        indices = [head.in_index] if isinstance(head.in_index, int) else head.in_index
        channels = [head.in_channels] if isinstance(head.in_channels, int) else head.in_channels
        assert list(channels) == [levels[index] for index in indices]
        assert head.num_classes == head.out_channels == model.decode_head.num_classes
        assert head.align_corners is False
        assert head.ignore_index == config.model.data_preprocessor.seg_pad_val == IGNORED
    assert list(model.decode_head.in_index) == [0, 1, 2, 3]
    strides = getattr(model.decode_head, "feature_strides", model.backbone.out_strides)
    assert tuple(strides) == model.backbone.out_strides == (4, 8, 16, 32)


@of_each
def test_every_loader_takes_zero_as_unlabelled_and_evaluation_uses_held_out_images(path, read):
    config = read(path)
    for loader in ("train", "val", "test"):
        (labels,) = (step for step in config[f"{loader}_dataloader"].dataset.pipeline if step.type == "LoadAnnotations")
        assert labels.reduce_zero_label is True
        dataset = config[f"{loader}_dataloader"].dataset
        split = "training" if loader == "train" else "validation"
        assert dataset.data_prefix == {"img_path": f"images/{split}", "seg_map_path": f"annotations/{split}"}
    assert "mIoU" in config.val_evaluator.iou_metrics
    assert config.test_evaluator == config.val_evaluator


# Leaves


@pytest.mark.parametrize("head", ["sem_fpn", "upernet"])
def test_every_variant_has_its_leaf_for_each_head(head, read):
    leaves = [path for path in OF_VARIANTS if path.stem.startswith(head)]
    assert {path.stem: read(path).model.backbone.variant for path in leaves} == config_named(head)
    assert set(config_named(head).values()) == set(VARIANTS)


@of_each_variant
def test_a_leaf_contains_only_what_differs_from_its_base(path):
    assert len(path.read_text().splitlines()) <= 14


@of_each_variant
def test_a_leaf_starts_from_a_published_classifier_of_its_own_variant(path, starts_from, read):
    weights = starts_from(path)
    assert (weights.task, weights.variant) == ("classification", read(path).model.backbone.variant)


@of_each_shapes
def test_the_shapes_configs_start_from_random_weights(path, starts_from):
    assert starts_from(path) is None


@of_each_unpublished
def test_an_unpublished_leaf_takes_the_recipe_of_the_published_neighbour_that_it_names(path, changes):
    head = path.stem.partition("_xcit_")[0]
    neighbour = path.with_stem(f"{head}_xcit_{NOTE.search(path.read_text())[1]}")
    assert neighbour in PUBLISHED
    assert neighbour.stem.endswith("_p8") == path.stem.endswith("_p8")
    own = {"model.backbone.variant", "model.backbone.init_cfg.checkpoint"}
    widths = {
        "sem_fpn": {"model.neck.in_channels", "model.neck.out_channels", "model.decode_head.in_channels"},
        "upernet": {"model.decode_head.in_channels", "model.auxiliary_head.in_channels"},
    }
    assert own <= changes(path, neighbour) <= own | widths[head]


def test_the_leaf_with_vt_fpn_differs_only_in_the_neck(changes, starts_from):
    leaf = DIRECTORY / "sem_fpn_xcit_s12_vtfpn.py"
    assert changes(leaf, DIRECTORY / "sem_fpn_xcit_s12.py") == {"model.neck.type"}
    assert starts_from(leaf).variant == "small_12_p16"


def test_the_shapes_config_with_vt_fpn_differs_only_in_the_neck(changes):
    leaf = DIRECTORY / "sem_fpn_xcit_n12_p8_vtfpn_shapes.py"
    assert changes(leaf, SHAPES[0]) == {"model.neck.type", "model.neck.token_channels"}


# The published recipe


@pytest.mark.parametrize("head", ["sem_fpn", "upernet"])
def test_every_published_recipe_has_its_config(head, recipe_name, reference):
    names = [name for name in reference("recipes") if name.startswith(f"{head}_")]
    assert len(names) == 8
    leaves = [path for path in PUBLISHED if path.stem.startswith(head)]
    assert sorted(map(recipe_name, leaves)) == sorted(names)


def test_only_detection_and_these_heads_were_published(reference):
    heads = Counter(name.partition("_xcit_")[0] for name in reference("recipes"))
    assert heads == {"mask_rcnn": 8, "sem_fpn": 8, "upernet": 8}


@of_each_published
def test_every_field_is_the_published_one(path, built, fields, published_fields, describe):
    model = built(path).model
    names = "in_channels in_index channels num_classes"
    decode = describe(model.decode_head, f"type {names}")
    decode["type"] = decode["type"].removeprefix("Fused")  # tests/mm/test_heads.py compares the two
    if decode["type"] == "FPNHead":
        decode |= describe(model.decode_head, "feature_strides")
    heads = {"test_cfg.mode": model.test_cfg.mode, **{f"decode.{key}": value for key, value in decode.items()}}
    if model.with_auxiliary_head:
        heads |= {f"aux.{key}": value for key, value in describe(model.auxiliary_head, names).items()}
    else:
        heads["aux"] = None
    assert {**fields(path), **heads} == published_fields(path)


@of_each_published
def test_each_parameter_learns_and_decays_as_published(path, learning, published_learning):
    got = learning(path)
    assert got == published_learning(path)
    assert {name for name, (_, decay) in got.items() if decay == 0} == {name for name in got if "norm" in name}
    assert Counter(decay for _, decay in got.values()).keys() == {0.0, 0.01}


@of_each_published
def test_the_rate_falls_in_a_line_times_the_warm_up_as_published(path, read, recipe, learning_rates):
    rule, highest = recipe(path)["lr_config"], recipe(path)["optimizer"]["lr"]
    assert [rule.pop(key) for key in ("policy", "warmup", "by_epoch")] == ["poly", "linear", False]
    assert (rule.pop("power"), rule.pop("min_lr")) == (1, 0)
    warm_up, ratio, length = rule.pop("warmup_iters"), rule.pop("warmup_ratio"), recipe(path)["runner"]["max_iters"]
    assert not rule
    iteration = np.arange(length)
    expected = highest * (1 - iteration / length)
    expected *= 1 - (1 - np.minimum(iteration / warm_up, 1)) * (1 - ratio)
    np.testing.assert_allclose(learning_rates(read(path)), expected, rtol=1e-7)


@of_each_variant
def test_the_rate_is_meant_for_eight_processes_of_the_published_batch(path, read):
    config = read(path)
    assert (config.train_dataloader.batch_size, config.auto_scale_lr.base_batch_size) == (2, 16)
    assert config.auto_scale_lr.enable is False
    assert config.model.decode_head.num_classes == 150


@of_each_variant
def test_upernet_learns_from_its_auxiliary_head_at_two_fifths(path, built):
    model = built(path).model
    assert model.with_auxiliary_head == path.stem.startswith("upernet")
    assert model.decode_head.loss_decode.loss_weight == 1
    if model.with_auxiliary_head:
        assert type(model.auxiliary_head).__name__ == "FusedFCNHead"
        assert model.auxiliary_head.loss_decode.loss_weight == 0.4


# Images


@pytest.fixture(scope="module")
def load(shared):
    """Builds a data set of a segmentation config on real images."""

    def build(loader, path=SMALLEST[0], **options):
        config = load_config(path, options, data_root=str(shared / "data" / "ADEChallengeData2016"))
        with DefaultScope.overwrite_default_scope("mmseg"):
            dataset = DATASETS.build(config[f"{loader}_dataloader"].dataset)
        assert len(dataset) == {"train": 80, "val": 20, "test": 20}[loader]
        return dataset

    return build


def passes(dataset, index, times):
    """Passes an image through the pipeline of its data set repeatedly, with the same random numbers each time."""
    state = np.random.get_state()
    np.random.seed(index)
    samples = [dataset.pipeline(dataset.get_data_info(index)) for _ in range(times)]
    np.random.set_state(state)
    return samples


@pytest.fixture(scope="module")
def crops(load):
    """A landscape image of 640 x 480 from 60 passes through the training pipeline, and its true labels."""
    dataset = load("train")
    index = next(i for i in range(len(dataset)) if Path(dataset.get_data_info(i)["img_path"]).stem == "000000000089")
    samples = []
    for sample in passes(dataset, index, 60):
        meta, labels = sample["data_samples"].metainfo, sample["data_samples"].gt_sem_seg.data
        assert (meta["ori_shape"], sample["inputs"].dtype) == ((480, 640), torch.uint8)
        assert sample["inputs"].shape[1:] == labels.shape[1:] == meta["img_shape"]
        scale = meta["scale_factor"][1] * 480 / 512
        samples.append(
            SimpleNamespace(inputs=sample["inputs"], labels=labels, scale=scale, flip=meta["flip"], sample=sample)
        )
    return samples


def test_training_images_are_half_to_twice_as_large_as_test_images(crops):
    scales = [crop.scale for crop in crops]
    assert 0.5 - 0.01 <= min(scales) < 0.65
    assert 1.8 < max(scales) <= 2 + 0.01
    assert len({round(scale, 1) for scale in scales}) > 10


def test_training_images_are_cropped_to_512_pixels_and_smaller_images_are_not_cropped(crops):
    for crop in crops:
        height, width = round(512 * crop.scale), round(512 * crop.scale * 640 / 480)
        expected = np.minimum((height, width), 512)
        assert np.allclose(crop.inputs.shape[1:], expected, atol=1), crop.scale
    assert sum(crop.inputs.shape[1:] == (512, 512) for crop in crops) > 20
    assert sum(max(crop.inputs.shape[1:]) < 512 for crop in crops) > 2


def test_half_of_the_training_images_are_mirrored_at_any_size(crops):
    counts = Counter((crop.flip, crop.scale > 1.25) for crop in crops)
    assert all(counts[pair] > len(crops) / 8 for pair in product((True, False), repeat=2)), counts


def test_training_images_change_their_colours(crops):
    # All crops are of one image, so a difference in the mean larger than a crop can cause is a change of colour.
    means = torch.stack([crop.inputs.float().mean((1, 2)) for crop in crops if crop.scale < 0.8])
    assert len(means) > 5
    assert (means.amax(0) - means.amin(0)).min() > 20


def test_training_labels_are_classes_from_zero_and_255(load):
    seen = set()
    dataset = load("train")
    for index in range(0, len(dataset), 8):
        (sample,) = passes(dataset, index, 1)
        seen |= set(sample["data_samples"].gt_sem_seg.data.unique().tolist())
    assert seen <= {*range(150), IGNORED}
    assert {0, IGNORED} < seen
    assert len(seen) > 20


@pytest.fixture
def of_labels(tmp_path):
    """Makes a training set of one image, bright where its label map is 2 and dark where it is 1."""

    def make(labels, path, **options):
        for kind, suffix, values in (("images", "jpg", 200 * (labels == 2)), ("annotations", "png", labels)):
            (tmp_path / kind / "training").mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / kind / "training" / f"1.{suffix}")
        config = load_config(path, options, data_root=str(tmp_path))
        return DATASETS.build(config.train_dataloader.dataset)

    return make


def test_crops_of_more_than_three_quarters_of_one_class_are_drawn_again(of_labels):
    labels = np.ones((256, 768), np.uint8)
    labels[:, 460:] = 2

    def dominated(**options):
        """Number of crops, of 40, with one class on more than three quarters of the pixels."""
        dataset = of_labels(labels, SMALLEST[0], **options)
        dataset.pipeline.transforms = dataset.pipeline.transforms[:4]  # up to the crop
        labels_of_crops = [sample["gt_seg_map"] for sample in passes(dataset, 0, 40)]
        return sum(not 0.25 < (each == 0).mean() < 0.75 for each in labels_of_crops)

    assert dominated(**{"train_dataloader.dataset.pipeline.3.cat_max_ratio": 1.0}) > 25
    assert dominated() < 15


@pytest.mark.parametrize("path", [SMALLEST[0], SHAPES[0]], ids=lambda path: path.stem)
def test_labels_follow_their_image_through_sizes_crops_and_flips(path, of_labels):
    labels = np.ones((300, 300), np.uint8)
    labels[:120, 100:250] = 2
    dataset = of_labels(labels, path)
    dataset.pipeline.transforms = [
        step for step in dataset.pipeline.transforms if type(step).__name__ != "PhotoMetricDistortion"
    ]
    directions = set()
    for sample in passes(dataset, 0, 20):
        bright, label = sample["inputs"][0] > 100, sample["data_samples"].gt_sem_seg.data[0]
        assert bright.any()
        assert (bright == (label == 1)).float().mean() > 0.97
        directions.add(sample["data_samples"].metainfo.get("flip_direction"))
    assert directions == {None, "horizontal"}


def test_a_batch_is_normalised_as_rgb_and_filled_up_to_512_pixels(crops, read):
    small = next(crop.sample for crop in crops if max(crop.inputs.shape[1:]) < 500)
    large = next(crop.sample for crop in crops if crop.inputs.shape[1:] == (512, 512))
    preprocessor = MODELS.build(read(SMALLEST[0]).model.data_preprocessor)
    samples = [small, large]
    data = {name: [sample[name] for sample in samples] for name in ("inputs", "data_samples")}
    batch = preprocessor(data, training=True)
    assert batch["inputs"].shape == (2, 3, 512, 512)
    height, width = small["inputs"].shape[1:]
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (small["inputs"].flip(0) - mean[:, None, None]) / std[:, None, None]  # OpenCV reads blue, green, red
    assert torch.allclose(batch["inputs"][0, :, :height, :width], expected, atol=1e-5)
    assert (batch["inputs"][0, :, height:] == 0).all()
    labels = batch["data_samples"][0].gt_sem_seg.data
    assert labels.shape == (1, 512, 512)
    assert (labels[:, height:] == IGNORED).all()
    assert (labels[:, :, width:] == IGNORED).all()


@pytest.mark.parametrize("loader", ["val", "test"])
def test_test_images_are_not_cropped_and_their_labels_keep_their_size(load, loader):
    dataset = load(loader)
    for index in range(0, len(dataset), 3):
        info = dataset.get_data_info(index)
        file = np.asarray(Image.open(info["seg_map_path"]))
        sample = dataset.pipeline(info)
        scale = min(512 / min(file.shape), 2048 / max(file.shape))
        assert np.allclose(sample["inputs"].shape[1:], np.array(file.shape) * scale, atol=1)
        assert not sample["data_samples"].metainfo.get("flip")
        labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
        assert np.array_equal(labels, np.where(file == 0, IGNORED, file.astype(int) - 1))


def test_augmented_testing_sees_six_sizes_each_plain_and_mirrored(load):
    dataset = load("test")
    config = load_config(SMALLEST[0])
    sample = Compose(config.tta_pipeline)(dataset.get_data_info(0))
    height, width = sample["data_samples"][0].metainfo["ori_shape"]
    seen = {}
    for image, data in zip(sample["inputs"], sample["data_samples"]):
        assert data.gt_sem_seg.data.shape[1:] == (height, width)
        scale = min(512 / min(height, width), 2048 / max(height, width))
        ratio = round(image.shape[1] / height / scale, 2)
        assert np.allclose(image.shape[1:], np.array([height, width]) * scale * ratio, atol=2)
        seen[ratio, data.metainfo["flip"]] = image
    ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert len(sample["inputs"]) == 12
    assert seen.keys() == set(product(ratios, (False, True)))
    for ratio in ratios:
        assert torch.equal(seen[ratio, True], seen[ratio, False].flip(2))
    with torch.device("meta"):
        assert MODELS.build({**config.tta_model, "module": config.model}).module.with_decode_head


# The embedded data set


@of_each_shapes
def test_the_shapes_configs_have_the_classes_and_palette_of_the_shapes(path, shapes):
    config = load_config(path, data_root=str(shapes))
    assert config.model.decode_head.num_classes == len(SEGMENTATION_CLASSES)
    for loader, count in {"train_dataloader": 8, "val_dataloader": 4, "test_dataloader": 4}.items():
        dataset = DATASETS.build(config[loader].dataset)
        assert tuple(dataset.metainfo["classes"]) == SEGMENTATION_CLASSES
        assert tuple(map(tuple, dataset.metainfo["palette"])) == PALETTE
        assert len(dataset) == count
        labels = [dataset[index]["data_samples"].gt_sem_seg.data.unique().tolist() for index in range(len(dataset))]
        assert set().union(*labels) == set(range(len(SEGMENTATION_CLASSES)))


@of_each_shapes
def test_the_shapes_images_are_trained_on_and_tested_at_one_size(path, shapes):
    config = load_config(path, data_root=str(shapes))
    train, test = (DATASETS.build(config[f"{loader}_dataloader"].dataset)[0] for loader in ("train", "test"))
    assert train["inputs"].shape == test["inputs"].shape == (3, *config.model.data_preprocessor.size)
    assert test["data_samples"].gt_sem_seg.data.shape == (1, 96, 96)


# Steps


@pytest.fixture(scope="module")
def small(read):
    """The smallest variant with each head, for batches of 64 pixels, and its optimizer."""
    made = {}

    def make(path):
        if path not in made:
            config = load_config(path, {"model.backbone.init_cfg": None, "model.data_preprocessor.size": (64, 64)})
            torch.manual_seed(0)
            model = MODELS.build(config.model)
            made[path] = model, build_optim_wrapper(model, config.optim_wrapper)
        return made[path]

    return make


def samples(images, labels=None):
    """The data of a batch, in the form that a data loader returns."""
    from mmseg.structures import SegDataSample

    size = tuple(images.shape[2:])
    made = []
    for index in range(len(images)):
        sample = SegDataSample(metainfo={"ori_shape": size, "img_shape": size, "pad_shape": size})
        if labels is not None:
            sample.gt_sem_seg = PixelData(data=labels[index])
        made.append(sample)
    return {"inputs": list(images), "data_samples": made}


@of_the_smallest
def test_the_smallest_variant_takes_a_training_step(path, small):
    model, optim = small(path)
    images = (random_images(2, 3, 64, 48) * 50 + 128).clamp(0, 255).to(torch.uint8)
    labels = torch.randint(150, (2, 1, 64, 48), generator=torch.Generator().manual_seed(0))
    labels[:, :, :4] = IGNORED
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.train()
    losses = model.train_step(samples(images, labels), optim)
    heads = ["decode", "aux"] if path.stem.startswith("upernet") else ["decode"]
    assert {f"{head}.loss_ce" for head in heads} <= losses.keys()
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert losses["decode.loss_ce"].item() == pytest.approx(np.log(150), rel=0.3)
    still = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    assert not still, "parameters that did not learn"


@pytest.fixture
def predict(small):
    """Predicts a random image with the model of a head in a mode of test_cfg."""

    def infer(path, mode, size, **test_cfg):
        model, _ = small(path)
        options = {f"model.test_cfg.{name}": value for name, value in {"mode": mode, **test_cfg}.items()}
        other = MODELS.build(load_config(path, {"model.backbone.init_cfg": None, **options}).model)
        other.load_state_dict(model.state_dict())
        images = (random_images(1, 3, *size) * 50 + 128).clamp(0, 255).to(torch.uint8)
        with torch.no_grad():
            (result,) = other.eval().test_step(samples(images))
        return result.pred_sem_seg.data, result.seg_logits.data

    return infer


@of_the_smallest
def test_windows_give_a_label_map_of_the_size_of_the_image(path, predict):
    size = (96, 80)
    whole, whole_logits = predict(path, "whole", size)
    slid, slid_logits = predict(path, "slide", size, crop_size=(64, 64), stride=(48, 48))
    assert whole.shape == slid.shape == (1, *size)
    assert whole_logits.shape == slid_logits.shape == (150, *size)
    assert torch.isfinite(slid_logits).all()
    assert not torch.allclose(whole_logits, slid_logits), "no windows"


@of_the_smallest
def test_an_image_within_one_window_is_predicted_without_windows(path, predict):
    size = (96, 80)
    whole, logits = predict(path, "whole", size)
    slid, slid_logits = predict(path, "slide", size)
    assert torch.equal(whole, slid)
    assert torch.allclose(logits, slid_logits, atol=1e-6)
