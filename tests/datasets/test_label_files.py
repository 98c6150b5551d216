"""Label maps and lists of pairs are written and read."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.label_maps import find
from xcit_dense.datasets.formats.labels import Pair
from xcit_dense.datasets.formats.meaning import interpret
from xcit_dense.datasets.label_files import read_pairs, write_label_map, write_label_maps, write_pairs


@pytest.fixture
def masks(tmp_path):
    """Three images with masks of 0 and 255."""
    for directory in ("images", "masks"):
        (tmp_path / directory).mkdir()
    for name in "abc":
        Image.new("RGB", (4, 2)).save(tmp_path / f"images/{name}.jpg")
        Image.fromarray(np.array([[0, 255, 0, 255]] * 2, np.uint8)).save(tmp_path / f"masks/{name}.png")
    return tmp_path


def test_converted_label_maps_have_the_numbers_of_the_classes(masks, tmp_path):
    pairs = write_label_maps(interpret(find(masks)), tmp_path / "made")["train"]
    assert pairs[0] == Pair("images/a.jpg", "masks/a.png")
    for pair in pairs:
        with Image.open(tmp_path / "made" / pair.label) as label:
            assert np.asarray(label).tolist() == [[0, 1, 0, 1]] * 2


def test_a_missing_label_image_is_left_to_the_check(masks, tmp_path):
    (masks / "masks/b.png").unlink()
    pairs = write_label_maps(interpret(find(masks)), tmp_path / "made")["train"]
    assert [(tmp_path / "made" / pair.label).is_file() for pair in pairs] == [True, False, True]


def test_a_damaged_label_image_is_refused(masks, tmp_path):
    (masks / "masks/b.png").write_bytes((masks / "masks/b.png").read_bytes()[:50])
    with raises_user_error("masks/b.png", "cannot be read"):
        write_label_maps(interpret(find(masks)), tmp_path / "made")


def test_a_palette_does_not_change_the_values(tmp_path):
    label = np.array([[0, 1, 255]], np.uint8)
    write_label_map(tmp_path / "new/a.png", label, [(1, 2, 3), (200, 0, 0)])
    with Image.open(tmp_path / "new/a.png") as image:
        assert np.asarray(image).tolist() == label.tolist()
        assert np.asarray(image.convert("RGB")).tolist() == [[[1, 2, 3], [200, 0, 0], [255, 255, 255]]]


def test_pairs_are_read_as_they_were_written(tmp_path):
    pairs = [Pair("a b/ä.jpg", "ä.png"), Pair("c.jpg", "c.png")]
    write_pairs({"train": pairs, "val": []}, tmp_path)
    assert read_pairs(tmp_path / "train.json") == pairs
    assert read_pairs(tmp_path / "val.json") == []


@pytest.mark.parametrize("content", ["", "{}1", '[{"image": "a.jpg"}]', "[1]"])
def test_a_file_that_is_not_a_list_of_pairs_is_refused(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    with raises_user_error(tmp_path / "train.json", '"label"'):
        read_pairs(tmp_path / "train.json")
