"""Pascal VOC's XML files: splits by lists or directories, classes, coordinates and faults."""

import pytest

from tests.helpers.layouts import (
    CLASSES,
    IMAGES,
    SPLITS,
    boxes,
    expected_boxes,
    voc_xml,
    write_image,
    write_text,
    write_voc,
)
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.voc import find

EXPECTED = {split: expected_boxes(names) for split, names in SPLITS.items()}


def read(data):
    return {split: boxes(read_split()) for split, read_split in data.splits.items()}


def test_splits_come_from_the_lists_and_corners_are_pixels_counted_from_1(tmp_path):
    data = find(write_voc(tmp_path))
    assert read(data) == EXPECTED
    assert list(data.notes) == []
    assert [category["name"] for category in data.splits["val"]()["categories"]] == list(CLASSES)


def test_corners_that_begin_with_0_are_points_with_a_note(tmp_path):
    write_voc(tmp_path, first=0)
    path = tmp_path / "Annotations/b.xml"
    path.write_text(path.read_text().replace("<xmin>2</xmin>", "<xmin>0</xmin>"))
    data = find(tmp_path)
    assert read(data)["train"]["b"] == [("cat", (0, 4, 10, 32))]
    assert read(data)["train"]["a"] == EXPECTED["train"]["a"]
    assert "begin with 0 instead of 1: 1 (a cat has 0, 4, 10, 36)" in next(iter(data.notes))


def test_corners_between_pixels_are_points(tmp_path):
    write_voc(tmp_path, first=0)
    path = tmp_path / "Annotations/b.xml"
    path.write_text(path.read_text().replace("<xmin>2</xmin>", "<xmin>2.5</xmin>"))
    assert read(find(tmp_path))["train"]["b"] == [("cat", (2.5, 4, 7.5, 32))]


def test_difficult_objects_are_ignored_with_a_note(tmp_path):
    data = find(write_voc(tmp_path, difficult=("dog",)))
    crowds = [annotation["iscrowd"] for annotation in data.splits["train"]()["annotations"]]
    assert crowds == [1, 0, 0]
    assert "objects marked as difficult, which training and evaluation ignore: 2" in next(iter(data.notes))


@pytest.mark.parametrize("devkit", ["", "VOCdevkit/VOC2012"])
def test_trainval_without_val_is_for_training_and_its_list_may_have_columns(tmp_path, devkit):
    root = write_voc(tmp_path / devkit)
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trainval.txt")
    write_text(root / "ImageSets/Main/trainval.txt", "a  1\nb -1\nc  0\nd  1\n")
    write_text(root / "ImageSets/Main/cat_train.txt", "d 1\n")
    assert read(find(tmp_path)) == EXPECTED


def test_the_layout_of_cvat_is_read(tmp_path):
    """One list named default, with names in quotation marks, and labelmap.txt with the background."""
    write_voc(tmp_path)
    for path in (tmp_path / "ImageSets/Main").iterdir():
        path.unlink()
    write_text(tmp_path / "ImageSets/Main/default.txt", "".join(f'"{name}"\n' for name in "abcd"))
    rows = "background:0,0,0::\ndog:1,2,3::\nbird:4,5,6::\ncat:7,8,9::\n"
    write_text(tmp_path / "labelmap.txt", f"# label:color_rgb:parts:actions\n{rows}")
    data = find(tmp_path)
    assert read(data) == {"train": expected_boxes("abcd")}
    assert [category["name"] for category in data.splits["train"]()["categories"]] == ["dog", "bird", "cat"]


@pytest.mark.parametrize(
    ("images", "annotations"), [("{}", "{}"), ("images/{}", "annotations/{}"), ("{}/img", "{}/xml")]
)
def test_without_lists_the_splits_come_from_directories(tmp_path, images, annotations):
    for split, names in SPLITS.items():
        directory = {"val": "valid"}.get(split, split)
        for name in names:
            write_image(tmp_path / images.format(directory) / f"{name}.png", IMAGES[name][0])
            write_text(tmp_path / annotations.format(directory) / f"{name}.xml", voc_xml(name))
    assert read(find(tmp_path)) == EXPECTED


def test_images_with_the_same_name_belong_to_the_xml_file_of_their_directory(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        write_image(tmp_path / f"images/{split}/1.png", IMAGES[name][0])
        write_text(tmp_path / f"annotations/{split}/1.xml", voc_xml(name).replace(f"{name}.png", "1.png"))
    data = find(tmp_path)
    names = {split: content()["images"][0]["file_name"] for split, content in data.splits.items()}
    assert names == {"train": "images/train/1.png", "val": "images/val/1.png"}


def test_files_in_no_list_and_names_without_a_file_are_noted(tmp_path):
    write_voc(tmp_path)
    write_text(tmp_path / "ImageSets/Main/val.txt", "gone\n")
    assert list(find(tmp_path).notes) == [
        "images in ImageSets without an XML file, which are passed over: 1 (gone)",
        "XML files in no list of ImageSets, which are passed over: 1 (Annotations/d.xml)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<name>cat</name>", "", ["without a name", "Annotations/b.xml"]),
        ("<xmin>3</xmin>", "<xmin>left</xmin>", ["bndbox of four numbers", "Annotations/b.xml"]),
        ("<xmax>10</xmax>", "<xmax>1</xmax>", ["xmax or ymax is less", "Annotations/b.xml: cat"]),
        ("</annotation>", "", ["not valid XML", "Annotations/b.xml"]),
    ],
)
def test_faults_are_reported_with_their_places(tmp_path, old, new, words):
    write_voc(tmp_path)
    path = tmp_path / "Annotations/b.xml"
    path.write_text(path.read_text().replace(old, new))
    with raises_user_error(*words):
        find(tmp_path).splits["val"]()


def test_an_xml_file_without_its_image_is_refused(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "JPEGImages/b.png").unlink()
    with raises_user_error("without their image", "Annotations/b.xml"):
        find(tmp_path).splits["train"]()


def test_a_name_that_the_label_map_does_not_have_is_refused(tmp_path):
    write_voc(tmp_path)
    write_text(tmp_path / "labelmap.txt", "cat:1,2,3::\n")
    with raises_user_error("labelmap.txt does not name dog"):
        find(tmp_path).splits["train"]()


def test_other_xml_files_are_not_taken(tmp_path):
    write_text(tmp_path / "annotations.xml", "<annotations><image/></annotations>")
    assert find(tmp_path) is None
