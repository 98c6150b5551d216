"""Label maps are found in the usual layouts; other layouts give an error that lists the usual ones."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.label_maps import (
    files_in,
    find,
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


def pairs_of(root, split="train"):
    return [(pair.image, pair.label) for pair in find(root).splits[split]]


def test_images_with_several_suffixes_are_found_as_pairs(labelled):
    root = labelled("images/train", "masks/train", ["a.jpg", "b.png", "c.JPEG"])
    assert pairs_of(root) == [
        ("images/train/a.jpg", "masks/train/a.png"),
        ("images/train/b.png", "masks/train/b.png"),
        ("images/train/c.JPEG", "masks/train/c.png"),
    ]
    assert find(root).layout is None
    with raises_user_error(root, "No pair of suffixes"):
        find_labels(root)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/{}", "images/{}"),
        ("{}", "{}"),
        ("{}", "{}_labels"),
        ("{}", "{}_masks"),
        ("{}/img", "{}/gt"),
        ("Images/{}", "Masks/{}"),
    ],
)
def test_less_usual_directories_are_found(labelled, images, labels):
    for split in ("train", "valid"):
        root = labelled(images.format(split), labels.format(split), end="_mask.png")
    image, label = images.format("valid"), labels.format("valid")
    assert pairs_of(root, "val") == [(f"{image}/{name}.jpg", f"{label}/{name}_mask.png") for name in "ab"]


def test_images_next_to_their_label_maps_are_found(labelled):
    root = labelled(".", ".", end="_mask.png")
    assert pairs_of(root) == [("a.jpg", "a_mask.png"), ("b.jpg", "b_mask.png")]
    assert find(root).layout.splits["train"] == Split(".", ".", ".jpg", "_mask.png")


def test_images_with_the_suffix_of_their_label_maps_are_listed_as_pairs(labelled):
    root = labelled(".", ".", ["a.png", "b.png"], end="_mask.png")
    assert pairs_of(root) == [("a.png", "a_mask.png"), ("b.png", "b_mask.png")]
    assert find(root).layout is None, "MMSegmentation would read the masks as images"


def test_images_alone_are_not_label_data(labelled):
    root = labelled("images/train", "other")
    assert find(root) is None


@pytest.mark.parametrize("hidden", ["._a.jpg", ".ipynb_checkpoints/a.jpg"])
def test_hidden_files_are_passed_over(labelled, hidden):
    root = labelled("images/train", "masks/train")
    for directory in ("images/train", "masks/train"):
        path = root / directory / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not an image")
    assert len(pairs_of(root)) == 2
    # MMSegmentation passes over hidden files, but not over hidden directories.
    assert (find(root).layout is None) == ("/" in hidden)


def test_linked_directories_are_followed(labelled):
    root = labelled("elsewhere/images", "elsewhere/masks")
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
        (root / kind / "train/town").symlink_to(root / "elsewhere" / kind)
    assert pairs_of(root) == [(f"images/train/town/{name}.jpg", f"masks/train/town/{name}.png") for name in "ab"]


def test_an_image_without_a_label_map_stays_for_the_check_and_a_label_map_without_an_image_is_noted(labelled):
    root = labelled("images/train", "masks/train", ["a.jpg", "b.jpg", "c.jpg"])
    (root / "masks/train/a.png").unlink()
    (root / "images/train/b.jpg").unlink()
    assert pairs_of(root)[0] == ("images/train/a.jpg", "masks/train/a.png")
    assert find(root).notes == ("1 label maps without an image are passed over.",)


def test_label_maps_without_the_names_of_images_are_refused(labelled):
    root = labelled("images/train", "masks/other")
    (root / "masks/other").rename(root / "masks/train")
    for number, label in enumerate(sorted((root / "masks/train").iterdir())):
        label.rename(label.with_stem(f"{number}"))
    with raises_user_error("masks/train", "a.png"):
        find(root)


def test_label_images_in_a_lossy_format_are_refused(labelled):
    root = labelled("images/train", "masks/train", end=".jpg")
    with raises_user_error("masks/train", "a.jpg", "JPEG", "PNG"):
        find(root)


def test_a_table_in_a_split_names_the_classes(labelled):
    root = labelled("train", "train", end="_mask.png")
    (root / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cup\n")
    assert find(root).table.classes == ("background", "cup")


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
        ("class_names.txt", "__ignore__\n_background_\ncup\n", (["_background_", "cup"], False)),
        ("label_names.json", '{"0": "road", "2": "sky"}', (["road", "class 1", "sky"], False)),
        ("label_names.json", '{"0": "ground", "255": "cup"}', (["ground", "cup"], False)),
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
