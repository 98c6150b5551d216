"""Data of every recognised format is written as clean COCO files, or as images and label maps."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from tests.helpers.reports import found
from xcit_dense.datasets.checks import check_coco, check_labels
from xcit_dense.datasets.convert import convert_data
from xcit_dense.datasets.formats.coco import find_coco
from xcit_dense.datasets.formats.label_maps import find_labels
from xcit_dense.datasets.formats.validation import Validation


@pytest.fixture
def yolo(tmp_path):
    """Polygons of two classes in YOLO's format: two images for training, one for validation."""
    root = tmp_path / "yolo"
    for split, names in {"train": ("a", "b"), "val": ("c",)}.items():
        for name in names:
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6)).save(root / f"images/{split}/{name}.jpg")
            (root / f"labels/{split}/{name}.txt").write_text("0 0 0 0.5 0 0.5 0.5 0 0.5\n1 0.5 0.5 1 0.5 1 1 0.5 1\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


@pytest.fixture
def masks(tmp_path):
    """Images with masks of 0 and 255, in one directory, with two images of one stem."""
    root = tmp_path / "masks-in-one"
    for directory in ("day", "night"):
        (root / directory).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (8, 6)).save(root / f"{directory}/{name}.jpg")
            Image.fromarray(np.full((6, 8), 255 * (name == "a"), np.uint8)).save(root / f"{directory}/{name}_mask.png")
    Image.new("RGB", (8, 6)).save(root / "day/b.png")
    return root


def files(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_objects_are_written_as_coco_with_their_images(yolo, tmp_path):
    sentences = convert_data(yolo, tmp_path / "clean")
    assert files(tmp_path / "clean") == [
        "annotations/instances_train.json",
        "annotations/instances_val.json",
        "train/a.jpg",
        "train/b.jpg",
        "val/c.jpg",
    ]
    assert "  train: 2 images, 4 objects (cat 2, dog 2)" in sentences
    layout = find_coco(tmp_path / "clean")
    for split in ("train", "val"):
        place = layout.splits[split]
        report = check_coco(
            tmp_path / "clean" / place.annotations, tmp_path / "clean" / place.images, ["cat", "dog"], masks=True
        )
        assert found(report) == {}


def test_objects_are_written_as_label_maps(yolo, tmp_path):
    sentences = convert_data(yolo, tmp_path / "clean", "labels")
    assert (tmp_path / "clean/classes.txt").read_text() == "background\ncat\ndog\n"
    with Image.open(tmp_path / "clean/labels/train/a.png") as label:
        expected = np.zeros((6, 8), int)
        expected[:3, :4], expected[3:, 4:] = 1, 2
        assert np.asarray(label).tolist() == expected.tolist()
    assert "  val: 1 images, 3 classes (background 50.0%, cat 25.0%, dog 25.0%)" in sentences
    split = find_labels(tmp_path / "clean").splits["train"]
    assert found(check_labels(tmp_path / "clean", split, ["background", "cat", "dog"])) == {}


def test_label_images_are_written_as_label_maps_with_names_of_their_own(masks, tmp_path):
    sentences = convert_data(masks, tmp_path / "clean")
    assert files(tmp_path / "clean/images/train") == [
        "day/a.jpg",
        "day/b.jpg",
        "day/b_2.png",
        "night/a.jpg",
        "night/b.jpg",
    ]
    assert files(tmp_path / "clean/labels/train") == [
        "day/a.png",
        "day/b.png",
        "day/b_2.png",
        "night/a.png",
        "night/b.png",
    ]
    with Image.open(tmp_path / "clean/labels/train/night/a.png") as label:
        assert set(np.asarray(label).ravel()) == {1}
    assert any("0 and 255" in sentence for sentence in sentences)


def test_converted_data_is_converted_to_the_same_data(yolo, masks, tmp_path):
    for number, (source, to) in enumerate(((yolo, "coco"), (yolo, "labels"), (masks, "labels"))):
        first, second = tmp_path / f"first-{number}", tmp_path / f"second-{number}"
        convert_data(source, first, to)
        convert_data(first, second, to)
        assert files(first) == files(second)
        for name in files(first):
            assert (first / name).read_bytes() == (second / name).read_bytes()


def test_zero_without_a_label_becomes_255(shapes, tmp_path):
    convert_data(shapes, tmp_path / "clean", "labels", ignore_zero=True)
    names = (tmp_path / "clean/classes.txt").read_text().splitlines()
    assert len(names) == 5
    for label in (tmp_path / "clean/labels/val").iterdir():
        with Image.open(label) as new, Image.open(shapes / "annotations/validation" / label.name) as old:
            assert (np.asarray(new).astype(int) == np.where(np.asarray(old) == 0, 255, np.asarray(old) - 1.0)).all()


def test_images_are_linked_if_asked(yolo, tmp_path):
    convert_data(yolo, tmp_path / "clean", link=True)
    assert (tmp_path / "clean/train/a.jpg").resolve() == yolo / "images/train/a.jpg"


def test_validation_images_are_split_off(masks, tmp_path):
    convert_data(masks, tmp_path / "clean", validation=Validation(0.4))
    assert len(files(tmp_path / "clean/images/val")) == len(files(tmp_path / "clean/labels/val")) == 2
    assert len(files(tmp_path / "clean/images/train")) == 3


def test_a_directory_with_files_is_refused_and_stays(yolo, tmp_path):
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/mine.txt").write_text("mine")
    with raises_user_error("clean", "has files already"):
        convert_data(yolo, tmp_path / "clean")
    assert files(tmp_path / "clean") == ["mine.txt"]


def test_an_empty_directory_is_taken(yolo, tmp_path):
    (tmp_path / "clean").mkdir()
    convert_data(yolo, tmp_path / "clean")
    assert (
        json.loads((tmp_path / "clean/annotations/instances_val.json").read_text())["images"][0]["file_name"] == "c.jpg"
    )


def test_a_fault_leaves_no_files(masks, tmp_path):
    (masks / "night/b_mask.png").unlink()
    with raises_user_error("night/b.jpg", "no label map"):
        convert_data(masks, tmp_path / "clean")
    assert [path.name for path in tmp_path.iterdir()] == [masks.name]


def test_label_images_are_not_written_as_objects(masks, tmp_path):
    with raises_user_error("a class for each pixel", "no boxes or polygons"):
        convert_data(masks, tmp_path / "clean", "coco")
