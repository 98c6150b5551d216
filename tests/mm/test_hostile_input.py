"""Hostile or broken data and configs in MMDetection and MMSegmentation: a right answer or one clear error."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.loading import use_checked_loading

CONFIGS = Path(__file__).parents[2] / "configs"
MASK_RCNN = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
SEM_FPN = CONFIGS / "segmentation/sem_fpn_xcit_n12_p8_shapes.py"
UPERNET = CONFIGS / "segmentation/upernet_xcit_n12_p8_shapes.py"
SIZE = (48, 40)  # width and height of the images
BACKBONE = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "norm_cfg": {"type": "BN"}}


def shrunk(path, root=None):
    """Reads a config and gives it a small backbone."""
    config = load_config(path, data_root=str(root) if root else None)
    config.model.backbone = {"type": "XCiT", **BACKBONE}
    for name in ("neck", "decode_head", "auxiliary_head"):
        part = config.model.get(name)
        if part and (name == "neck" or "neck" not in config.model):
            part.in_channels = 16 if isinstance(part.in_channels, int) else [16] * 4
    return config


@pytest.fixture(scope="module")
def built():
    """Each config with a small model."""

    def build(path):
        config = shrunk(path)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(config.default_scope):
            return config, MODELS.build(config.model)

    return {path: build(path) for path in (MASK_RCNN, SEM_FPN, UPERNET)}


@pytest.fixture
def trains(built):
    """Trains a small model for a step on some samples. Checks that all values are finite. Returns the losses."""

    def train(path, samples):
        config, model = built[path]
        model = copy.deepcopy(model).train()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.01))
        with DefaultScope.overwrite_default_scope(config.default_scope):
            losses = model.train_step(pseudo_collate(samples), wrapper)
        assert all(torch.isfinite(torch.as_tensor(value)).all() for value in losses.values()), losses
        assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())
        return {name: float(torch.as_tensor(value).detach()) for name, value in losses.items()}

    return train


@pytest.fixture
def tests(built):
    """Predicts some samples with a small model and evaluates the predictions with the metric of its config."""

    def test(path, samples, metainfo, evaluator):
        config, model = built[path]
        with DefaultScope.overwrite_default_scope(config.default_scope), torch.no_grad():
            batch = pseudo_collate(samples)
            outputs = copy.deepcopy(model).eval().test_step(batch)
            judge = Evaluator(evaluator)
            judge.dataset_meta = metainfo
            judge.process(outputs, batch)
            return outputs, judge.evaluate(len(samples))

    return test


# Detection ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def detection(tmp_path):
    """Makes a data set of two images with these annotations, each a box (x, y, width, height), as a config reads it.

    Gives the data sets of training and of testing, and the evaluator.
    """

    def make(*annotations, **more):
        (tmp_path / "annotations").mkdir()
        names = ["circle", "square", "triangle", "star"]
        images = [{"id": n, "file_name": f"{n}.jpg", "width": SIZE[0], "height": SIZE[1]} for n in (1, 2)]
        entries = [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
                **more,
            }
            for number, (x, y, width, height) in enumerate(annotations, start=1)
        ]
        content = {
            "images": images,
            "annotations": entries,
            "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
        }
        for split in ("train", "val"):
            (tmp_path / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
            (tmp_path / f"{split}2017").mkdir()
            for image in images:
                noise = np.random.default_rng(image["id"]).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / f"{split}2017" / image["file_name"])
        config = shrunk(MASK_RCNN, tmp_path)
        config.train_dataloader.dataset.filter_cfg = None  # images without a box too
        use_checked_loading(config.train_dataloader)  # as make_runner does
        with DefaultScope.overwrite_default_scope("mmdet"):
            sets = [DATASETS.build(config[f"{name}_dataloader"].dataset) for name in ("train", "val")]
        return *sets, config.val_evaluator

    return make


CROWD = {"iscrowd": 1, "segmentation": {"size": [*SIZE[::-1]], "counts": [100, 900, SIZE[0] * SIZE[1] - 1000]}}
NOTHING = {
    "no annotations": ((), {}),
    "crowds alone": ([(5, 5, 20, 20), (0, 0, 48, 40)], CROWD),
    "boxes of no pixel": ([(3, 4, 0, 0), (3, 4, 0.5, 5)], {}),
    "boxes outside the image": ([(60, 60, 10, 10), (-20, -20, 10, 10)], {}),
}
SOMETHING = {
    "boxes of one pixel": ([(3, 4, 1, 1), (47, 39, 1, 1), (0, 0, 1, 1)], {}),
    "boxes of one line": ([(0, 5, 48, 1), (7, 0, 1, 40)], {}),
    "a box larger than the image": ([(-50, -50, 500, 500)], {}),
    "the same box many times": ([(5, 5, 20, 20)] * 30, {}),
    "polygons without an area": ([(5, 5, 20, 20)], {"segmentation": [[5, 5, 5, 5, 5, 5]]}),
}


@pytest.mark.parametrize("kind", [*NOTHING, *SOMETHING])
def test_mask_rcnn_trains_on_images_with(detection, trains, kind):
    boxes, more = {**NOTHING, **SOMETHING}[kind]
    dataset, *_ = detection(*boxes, **more)
    assert len(dataset) == 2
    losses = trains(MASK_RCNN, [dataset[0], dataset[1]])
    assert losses["loss_rpn_cls"] > 0
    assert (
        (losses["loss_mask"] == 0) == (losses["loss_bbox"] == 0) == (kind in NOTHING)
    )  # the ground truth is also a proposal


def test_without_detections_the_evaluation_reports_empty_results(detection, tests, built, mm_log):
    _, dataset, evaluator = detection((5, 5, 20, 20))
    built[MASK_RCNN][1].roi_head.test_cfg.score_thr = 1.1
    outputs, metrics = tests(MASK_RCNN, [dataset[0], dataset[1]], dataset.metainfo, evaluator)
    for output in outputs:
        assert output.pred_instances.bboxes.shape == (0, 4)
        assert output.pred_instances.masks.shape == (0, *SIZE[::-1])
    assert not any(metrics.values())
    assert "results of the whole dataset is empty" in mm_log()


def test_a_data_set_names_an_unreadable_image(detection, tmp_path):
    dataset, *_ = detection((5, 5, 20, 20))
    path = tmp_path / "train2017/2.jpg"
    os.truncate(path, path.stat().st_size // 2)
    assert dataset[0]["inputs"].shape[0] == 3
    with raises_user_error(path, "cut short"):
        dataset[1]


# Segmentation -------------------------------------------------------------------------------------------------------


@pytest.fixture
def segmentation(tmp_path):
    """Makes a data set of two images with these labels everywhere, as the config reads it; and the evaluator."""

    def make(path, label, size=SIZE, pipeline=None, split="training"):
        config = shrunk(path, tmp_path)
        name = {"training": "train", "validation": "val"}[split]
        dataset = config[f"{name}_dataloader"].dataset
        for part, suffix, value in (("img_path", "jpg", 127), ("seg_map_path", "png", label)):
            folder = tmp_path / dataset.data_prefix[part]
            folder.mkdir(parents=True)
            for number in (1, 2):
                mode = "RGB" if suffix == "jpg" else "L"
                Image.new(mode, size, (value,) * len(mode) if mode == "RGB" else value).save(
                    folder / f"{number}.{suffix}"
                )
        dataset.pipeline = pipeline or dataset.pipeline
        with DefaultScope.overwrite_default_scope("mmseg"):
            return DATASETS.build(dataset), config.val_evaluator

    return make


@pytest.mark.parametrize("path", [SEM_FPN, UPERNET], ids=lambda path: path.stem)
@pytest.mark.parametrize("label", [0, 255, 1], ids=["without a label", "to be ignored", "of one class"])
def test_segmentors_train_on_images_whose_pixels_are_all(segmentation, trains, path, label):
    dataset, _ = segmentation(path, label)
    sample = dataset[0]
    assert sample["data_samples"].gt_sem_seg.data.unique().tolist() == [0 if label == 1 else 255]
    losses = trains(path, [sample, dataset[1]])
    assert (losses["loss"] == 0) == (label != 1)


@pytest.mark.parametrize("size", [(2, 2), (40, 3), (300, 2)], ids=str)
def test_a_segmentor_trains_on_images_smaller_than_the_crop(segmentation, trains, size):
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "RandomCrop", "crop_size": (64, 64), "cat_max_ratio": 0.75},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    dataset, _ = segmentation(SEM_FPN, 2, size, pipeline)
    assert dataset[0]["inputs"].shape[1:] == (min(64, size[1]), min(64, size[0]))
    assert trains(SEM_FPN, [dataset[0], dataset[1]])["loss"] > 0


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("size", [(2, 2), (200, 3)], ids=str)
def test_a_segmentor_tests_images_of_a_few_pixels(segmentation, tests, built, monkeypatch, size, mode):
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "reduce_zero_label": True},
        {"type": "PackSegInputs"},
    ]
    dataset, evaluator = segmentation(SEM_FPN, 2, size, pipeline, "validation")
    cfg = {"mode": mode, "crop_size": (64, 64), "stride": (43, 43)}
    monkeypatch.setattr(built[SEM_FPN][1], "test_cfg", type(built[SEM_FPN][1].test_cfg)(cfg))
    outputs, metrics = tests(SEM_FPN, [dataset[0]], dataset.metainfo, evaluator)
    assert outputs[0].pred_sem_seg.data.shape == (1, *size[::-1])
    assert 0 <= metrics["aAcc"] <= 100


# Configs ------------------------------------------------------------------------------------------------------------

IMPOSSIBLE = {
    "num_heads": 3,
    "embed_dim": 18,
    "depth": 0,
    "patch_size": 7,
    "drop_path_rate": -0.1,
    "drop_rate": "much",
    "out_indices": (0, 1, 2, 4),
    "in_channels": 0,
    "mlp_ratio": -4,
    "eta": "small",
    "frozen_stages": 99,
    "norm_cfg": {"type": "BN", "eps": "1e-5"},
}


def check(**options):
    """Checks the backbone of the small Mask R-CNN's config with these options, as before a run."""
    config = load_config(MASK_RCNN)
    config.model.backbone = {"type": "XCiT", **BACKBONE, **options}
    config.model.neck.in_channels = [16] * 4
    check_config(config, ())


def test_the_small_backbone_passes():
    check()


@pytest.mark.parametrize("option", IMPOSSIBLE)
def test_a_config_that_asks_for_the_impossible_is_refused_by_the_option(option):
    value = IMPOSSIBLE[option]
    with raises_user_error(option, str(value)) as caught:
        check(**{option: value})
    assert "\n" not in str(caught.value)


def test_an_option_that_does_not_exist_is_refused_with_the_nearest():
    with raises_user_error("'embed_dims'", "Did you mean 'embed_dim'?"):
        check(embed_dims=16)
