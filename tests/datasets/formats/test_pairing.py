"""The names of images and label images are matched, whatever program wrote the names."""

import pytest

from xcit_dense.datasets.formats.pairing import find_naming, match, split_directory


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("{}.jpg", "{}.png"),
        ("{}.jpg", "{}_mask.png"),
        ("{}.jpg", "{}.jpg.png"),
        ("{}_leftImg8bit.png", "{}_gtFine_labelIds.png"),
        ("{}_sat.jpg", "{}_mask.png"),
        ("{}.png", "mask_{}.png"),
        ("img_{}.png", "mask_{}.png"),
        ("{}.jpg", "{}_segmentation.tif"),
        ("town/{}.jpg", "town/{}_labels.PNG"),
    ],
)
def test_names_are_matched(image, label):
    stems = ["1", "10", "a.b", "a"]
    images, labels = [image.format(stem) for stem in stems], [label.format(stem) for stem in stems]
    naming = find_naming(images, labels)
    assert match(images, labels, naming) == list(zip(images, labels))


def test_drawings_next_to_label_images_are_not_taken():
    images = ["a.jpg", "b.jpg"]
    labels = [f"{stem}_{kind}.png" for stem in "ab" for kind in ("color", "instanceIds", "labelIds")]
    assert match(images, labels, find_naming(images, labels)) == [
        ("a.jpg", "a_labelIds.png"),
        ("b.jpg", "b_labelIds.png"),
    ]


def test_label_images_with_several_suffixes_are_matched():
    images, labels = ["a.jpg", "b.jpg", "c.jpg"], ["a.png", "b.tif"]
    assert match(images, labels, find_naming(images, labels)) == [
        ("a.jpg", "a.png"),
        ("b.jpg", "b.tif"),
        ("c.jpg", None),
    ]


def test_other_names_do_not_match():
    assert find_naming(["a.jpg"], ["b.png"]) is None


@pytest.mark.parametrize("end", ["_mask", "_labels", "-gt", "_L", "_labelIds", ".mask"])
def test_the_files_of_one_directory_are_told_apart(end):
    files = [f"{stem}{kind}" for stem in ("1", "2") for kind in (".png", f"{end}.png")]
    assert split_directory(files) == (["1.png", "2.png"], [f"1{end}.png", f"2{end}.png"])


@pytest.mark.parametrize("files", [["a.jpg", "b.jpg"], ["a.jpg", "b_mask.png"], []])
def test_a_directory_of_images_has_no_label_images(files):
    assert split_directory(files) == ([], [])
