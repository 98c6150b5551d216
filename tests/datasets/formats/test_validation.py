"""Validation images are split off by image, with the same result for the same seed."""

import pytest

from tests.helpers.layouts import IMAGES, boxes, expected_boxes, write_coco, write_yolo
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.datasets.formats.recognise import recognise_objects
from xcit_dense.datasets.formats.validation import (
    Validation,
    choose_validation,
    split_off_labels,
    split_off_objects,
)

NAMES = [f"images/{number}.jpg" for number in range(100)]


def test_the_choice_depends_on_the_seed_and_not_on_the_order():
    chosen = choose_validation(NAMES, Validation(0.1, seed=3))
    assert len(chosen) == 10
    assert choose_validation(reversed(NAMES), Validation(0.1, seed=3)) == chosen
    assert choose_validation(NAMES, Validation(0.1, seed=4)) != chosen


@pytest.mark.parametrize(("fraction", "count"), [(0.001, 1), (0.25, 1), (0.5, 2), (0.999, 3)])
def test_both_splits_have_an_image(fraction, count):
    assert len(choose_validation("abcd", Validation(fraction))) == count


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 10, float("nan")])
def test_fractions_beyond_0_and_1_are_refused(fraction):
    with raises_user_error("--val-fraction", "between 0 and 1"):
        choose_validation("abcd", Validation(fraction))


def test_a_single_image_is_refused():
    with raises_user_error("two images"):
        choose_validation("a", Validation(0.5))


def test_images_go_to_one_split_with_all_of_their_objects(tmp_path):
    write_yolo(tmp_path, splits={"train": tuple(IMAGES)})
    data = split_off_objects(recognise_objects(tmp_path), Validation(0.5, seed=1))
    train, val = (boxes(data.splits[split]()) for split in ("train", "val"))
    assert len(train) == len(val) == 2
    assert train | val == expected_boxes(IMAGES)
    assert data.splits["train"]()["categories"] == data.splits["val"]()["categories"]


def test_the_parts_of_a_coco_file_do_not_use_the_complete_file(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "annotations/instances_val.json").unlink()
    data = recognise_objects(tmp_path)
    assert data.files
    assert split_off_objects(data, Validation(0.5)).files == {}


def test_pairs_of_images_and_labels_are_split(tmp_path):
    pairs = [Pair(f"{number}.jpg", f"{number}.png") for number in range(10)]
    data = split_off_labels(LabelData("pairs", tmp_path, {"train": pairs}), Validation(0.3))
    assert {split: len(found) for split, found in data.splits.items()} == {"train": 7, "val": 3}
    assert sorted((*data.splits["train"], *data.splits["val"]), key=lambda pair: pair.image) == pairs


def test_data_with_a_validation_split_is_refused(tmp_path):
    with raises_user_error("--val-fraction 0.1", "a validation split already"):
        split_off_objects(recognise_objects(write_yolo(tmp_path)), Validation(0.1))
