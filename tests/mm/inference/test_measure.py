"""The counts of classes and the sizes of objects are those of the files, or those that training sees."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from xcit_dense.datasets.shapes import CLASSES, SEGMENTATION_CLASSES
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.inference.browse import TrainingData
from xcit_dense.mm.inference.measure import count_classes, measure_sizes

CONFIGS = Path(__file__).parents[3] / "configs"
DETECTION = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
SEGMENTATION = CONFIGS / "segmentation/sem_fpn_xcit_n12_p8_shapes.py"


@pytest.fixture(scope="module")
def detection(shapes):
    config = load_config(DETECTION, data_root=str(shapes))
    return config, TrainingData(config)


@pytest.fixture(scope="module")
def segmentation(shapes):
    config = load_config(SEGMENTATION, data_root=str(shapes))
    return config, TrainingData(config)


def test_every_object_of_every_split_is_counted_once(detection, shapes):
    config, data = detection
    found = count_classes(config, data.dataset)
    assert list(found.counts) == ["train", "val"], "the test uses the validation data"
    for split, counts in found.counts.items():
        content = json.loads((shapes / f"annotations/instances_{split}2017.json").read_text())
        labels = [each["category_id"] - 1 for each in content["annotations"]]
        assert counts == {name: labels.count(label) for label, name in enumerate(CLASSES)}


def test_the_shares_of_classes_are_those_of_the_label_maps(segmentation, shapes):
    config, data = segmentation
    found = count_classes(config, data.dataset)
    for split, directory in (("train", "training"), ("val", "validation")):
        labels = [np.asarray(Image.open(path)) for path in (shapes / "annotations" / directory).iterdir()]
        pixels = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)
        shares = 100 * pixels[1 : 1 + len(SEGMENTATION_CLASSES)] / pixels[1:255].sum()
        assert list(found.counts[split].values()) == pytest.approx(shares.tolist())


def test_a_split_that_cannot_be_read_is_named(detection, tmp_path):
    config, data = detection
    other = load_config(config.filename, data_root=config.train_dataloader.dataset.data_root)
    other.val_dataloader.dataset.data_root = str(tmp_path)
    other.test_dataloader = other.val_dataloader
    found = count_classes(other, data.dataset)
    assert list(found.counts) == ["train"]
    (note,) = found.notes
    assert "val data" in note
    assert str(tmp_path) in note


def test_the_sizes_of_objects_are_those_after_resizing(shapes):
    config = load_config(DETECTION, {"train_dataloader.dataset.pipeline.3.prob": 0.0}, data_root=str(shapes))
    found = measure_sizes(config, TrainingData(config).dataset)
    content = json.loads((shapes / "annotations/instances_train2017.json").read_text())
    masks = np.sqrt([each["area"] for each in content["annotations"]])  # in images of 96 pixels
    assert len(found.sizes) == len(masks)
    ratio = np.sort(found.sizes) / np.sort(masks)
    assert np.median(ratio) == pytest.approx(128 / 96, rel=0.1)
    assert "8 of 8 images" in found.title


def test_regions_of_a_label_map_are_measured_one_by_one(segmentation):
    config, data = segmentation
    found = measure_sizes(config, data.dataset)
    assert len(found.sizes) > 8
    assert found.unit == "regions of one class"
    assert (found.sizes >= 1).all()
    assert np.square(found.sizes).sum() <= 8 * 128 * 128
