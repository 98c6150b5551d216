"""Cityscapes' layout is found, and its label ids are read as its classes."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.cityscapes import find
from xcit_dense.datasets.formats.meaning import interpret


@pytest.fixture
def city(tmp_path):
    """Makes two images of a split in a city, with label maps."""

    def make(end="labelIds", values=(0, 7, 26, 255), splits=("train", "val")):
        for split in splits:
            for number in range(2):
                name = f"zurich/zurich_{number:06d}_000019"
                image = tmp_path / f"leftImg8bit/{split}/{name}_leftImg8bit.png"
                for path in (
                    image,
                    *(tmp_path / f"gtFine/{split}/{name}_gtFine_{kind}.png" for kind in (end, "color")),
                ):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.array([values], np.uint8)).save(path)
        return tmp_path

    return make


def first_label(data):
    return data.read_label(data.splits["train"][0]).tolist()


def test_label_ids_are_read_as_the_classes_of_cityscapes(city):
    data = interpret(find(city()))
    assert {split: len(pairs) for split, pairs in data.splits.items()} == {"train": 2, "val": 2}
    assert data.splits["val"][1].label == "gtFine/val/zurich/zurich_000001_000019_gtFine_labelIds.png"
    assert len(data.classes) == len(data.palette) == 19
    assert (data.classes[0], data.classes[13]) == ("road", "car")
    assert first_label(data) == [[255, 0, 13, 255]]
    assert "19 classes of Cityscapes" in data.notes[0]


def test_train_ids_are_not_converted(city):
    data = interpret(find(city("labelTrainIds", (0, 13, 18, 255))))
    assert data.classes[13] == "car"
    assert data.read_label is None


def test_names_of_the_user_number_the_values(city):
    root = city(values=(0, 1, 2, 255))
    (root / "label_colors.txt").write_text("0 0 0 ground\n128 0 0 cat\n0 128 0 dog\n")
    data = interpret(find(root))
    assert data.classes == ("ground", "cat", "dog")
    assert data.read_label is None


def test_images_without_a_label_map_are_counted(city):
    root = city()
    (root / "gtFine/train/zurich/zurich_000001_000019_gtFine_labelIds.png").unlink()
    data = find(root)
    assert len(data.splits["train"]) == 1
    assert "1 images" in data.notes[0]


def test_a_training_split_without_label_maps_is_refused(city):
    with raises_user_error("leftImg8bit/train", "_gtFine_labelIds.png"):
        find(city(splits=("val",)))


def test_other_directories_are_not_cityscapes(tmp_path):
    assert find(tmp_path) is None
