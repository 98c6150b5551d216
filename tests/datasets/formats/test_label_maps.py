"""Label maps are found in the usual layouts; other layouts give an error that lists the usual ones."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.label_maps import (
    files_in,
    find_labels,
    read_names,
    read_palette,
    read_values,
)
from xcit_dense.datasets.formats.splits import Split


@pytest.fixture
def labelled(tmp_path):
    """Makes two directories, one of images and one of label maps."""

    def write(images, labels, names=("a.jpg", "b.jpg"), end=".png", values=((0, 1),)):
        for name in names:
            for path in (tmp_path / images / name, tmp_path / labels / f"{name.rpartition('.')[0]}{end}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.array(values, np.uint8)).save(path)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("images", "labels", "train", "val"),
    [
        ("images/{}", "annotations/{}", "training", "validation"),
        ("images/{}", "labels/{}", "train", "val"),
        ("images/{}", "masks/{}", "train", "valid"),
        ("img_dir/{}", "ann_dir/{}", "train", "val"),
        ("{}/images", "{}/masks", "train", "val"),
    ],
)
@pytest.mark.parametrize(("suffix", "end"), [(".jpg", ".png"), (".PNG", "_mask.png"), ("_rgb.png", "_rgb.png")])
def test_the_usual_layouts_of_label_maps_are_found(labelled, images, labels, train, val, suffix, end):
    for split in (train, val):
        # The name 1 begins the name 10.
        root = labelled(images.format(split), labels.format(split), [f"{number}{suffix}" for number in (1, 10)], end)
    found = find_labels(root).splits
    assert list(found) == ["train", "val"]
    for name, split in zip((train, val), found.values()):
        assert (split.images, split.annotations) == (images.format(name), labels.format(name))
        names = files_in(root / split.images, [split.image_suffix])
        assert len(names) == 2
        for name in names:
            assert (root / split.annotations / (name.removesuffix(split.image_suffix) + split.label_suffix)).is_file()


def test_images_without_splits_are_for_training(labelled):
    layout = find_labels(labelled("images", "masks"))
    assert layout.splits == {"train": Split("images", "masks", ".jpg", ".png")}


def test_an_unknown_layout_of_label_maps_gives_an_error_with_the_usual_layouts(tmp_path):
    with raises_user_error(
        tmp_path, "images/train + annotations/train", "images/train + masks/train", "images + masks"
    ):
        find_labels(tmp_path)


def test_images_with_several_suffixes_are_refused(labelled):
    root = labelled("images/train", "masks/train", ["a.jpg", "b.png", "c.png"])
    with raises_user_error(".png: 2", ".jpg: 1", "images/train"):
        find_labels(root)


def test_labels_without_the_names_of_images_are_refused(labelled):
    root = labelled("images/train", "masks/other")
    (root / "masks/other").rename(root / "masks/train")
    for label in (root / "masks/train").iterdir():
        label.rename(label.with_stem(f"mask_{label.stem}"))
    with raises_user_error("masks/train", "a.png"):
        find_labels(root)


def test_values_are_read_from_every_label_map_except_255(labelled, tmp_path):
    root = labelled("images", "masks", values=((0, 3), (255, 1)))
    Image.new("RGB", (2, 2), (9, 9, 9)).save(root / "masks/colours.png")
    (root / "masks/broken.png").write_bytes(b"not an image")
    Image.fromarray(np.array([[7, 300]], np.uint16)).save(root / "masks/deep.png")
    assert read_values(sorted((root / "masks").iterdir())) == {0, 1, 3, 7, 300}


@pytest.mark.parametrize("kind", ["colours", "broken"])
def test_label_maps_are_refused_if_none_has_values(tmp_path, kind):
    path = tmp_path / "1.png"
    Image.new("RGB", (2, 2)).save(path) if kind == "colours" else path.write_bytes(b"not an image")
    with raises_user_error("None of 1 label maps", path, "RGB" if kind == "colours" else "cannot be read"):
        read_values([path])


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("classes.txt", "road\n\nthe sky \n", (["road", "the sky"], False)),
        ("label_names.json", '{"0": "road", "2": "sky"}', (["road", "class 1", "sky"], False)),
        ("label_names.json", '{"2": "sky", "1": "road", "255": "void"}', (["road", "sky"], True)),
    ],
)
def test_class_names_are_read_by_value(tmp_path, file, content, expected):
    assert read_names(tmp_path) is None
    (tmp_path / file).write_text(content)
    assert read_names(tmp_path) == expected


@pytest.mark.parametrize(
    ("file", "content"),
    [("classes.txt", "\n"), ("classes.txt", "a\na\n"), ("label_names.json", '["a"]'), ("label_names.json", "{")],
)
def test_files_that_do_not_name_classes_are_refused(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    with raises_user_error(tmp_path / file):
        read_names(tmp_path)


def test_the_palette_of_a_label_map_is_read(tmp_path):
    label = Image.fromarray(np.array([[0, 1]], np.uint8))
    label.save(tmp_path / "grey.png")
    label.putpalette([0, 0, 0, 128, 64, 32])
    label.save(tmp_path / "palette.png")
    assert read_palette(tmp_path / "palette.png")[:2] == [(0, 0, 0), (128, 64, 32)]
    assert read_palette(tmp_path / "grey.png") == []
