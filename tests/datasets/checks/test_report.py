"""Faults keep their places: in words, and as marks that can be drawn on the image."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from xcit_dense.datasets.checks import check_coco, check_labels
from xcit_dense.datasets.checks.report import Mark, Report
from xcit_dense.datasets.formats.splits import Split
from xcit_dense.datasets.shapes import CLASSES


@pytest.fixture
def checked(shapes, tmp_path):
    """Changes the first annotation, with its image, and checks the file. Returns the faults and the image's path."""

    def check(**changes):
        content = json.loads((shapes / "annotations/instances_train2017.json").read_text())
        content["annotations"][0] |= changes
        path = tmp_path / "train.json"
        path.write_text(json.dumps(content))
        number = content["annotations"][0]["image_id"]
        (name,) = (image["file_name"] for image in content["images"] if image["id"] == number)
        return check_coco(path, shapes / "train2017", CLASSES).faults, shapes / "train2017" / name

    return check


@pytest.mark.parametrize(
    ("changes", "words", "box"),
    [
        ({"bbox": [200, 10, 20, 30]}, "outside their image", (200, 10, 220, 40)),
        ({"bbox": [50, 10, 80, 30]}, "beyond their image", (50, 10, 130, 40)),
        ({"bbox": [10, 10, 0.5, 30]}, "less than a pixel", (10, 10, 10.5, 40)),
        ({"bbox": [10, 10, None, 30]}, "four finite numbers", None),
        ({"bbox": [10, 10, 20, 20], "segmentation": 7}, "neither polygons", (10, 10, 30, 30)),
    ],
)
def test_the_mark_of_an_object_is_its_box_on_its_image(checked, changes, words, box):
    faults, image = checked(**changes)
    (fault,) = (fault for what, fault in faults.items() if words in what)
    (mark,) = fault.marks.values()
    assert (mark.image, mark.box) == (image, box)
    assert list(fault.marks) == fault.places


def test_the_mark_of_an_object_has_the_points_of_its_polygons(checked):
    faults, _ = checked(bbox=[10, 10, 20, 20], segmentation=[[10, 10, 30, 30]])
    (fault,) = (fault for what, fault in faults.items() if "three points" in what)
    assert [mark.polygons for mark in fault.marks.values()] == [[[10, 10, 30, 30]]]


def test_a_missing_image_has_a_mark(shapes, tmp_path):
    shutil.copytree(shapes / "train2017", tmp_path / "images")
    (tmp_path / "images/000000000002.jpg").unlink()
    report = check_coco(shapes / "annotations/instances_train2017.json", tmp_path / "images", CLASSES)
    marks = report.faults["missing images"].marks
    assert marks == {"000000000002.jpg": Mark(tmp_path / "images/000000000002.jpg")}


def test_the_mark_of_a_label_map_surrounds_the_values_that_belong_to_no_class(tmp_path):
    for directory in ("images", "masks"):
        (tmp_path / directory).mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images/a.png")
    values = np.zeros((30, 40), np.uint8)
    values[5:9, 20:26] = 77
    Image.fromarray(values).save(tmp_path / "masks/a.png")
    report = check_labels(tmp_path, Split("images", "masks", ".png", ".png"), ["road", "car"])
    (fault,) = (fault for what, fault in report.faults.items() if "values other than" in what)
    assert list(fault.marks.values()) == [Mark(tmp_path / "images/a.png", (20, 5, 26, 9))]


def test_the_number_of_marks_is_limited(tmp_path):
    report = Report(tmp_path)
    for number in range(100):
        report.error("missing images", f"{number}.jpg", Mark(tmp_path / f"{number}.jpg"))
    assert report.faults["missing images"].count == 100
    assert len(report.faults["missing images"].marks) == 12
