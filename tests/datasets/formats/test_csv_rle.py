"""Tables of run-length codes, as Kaggle's competitions have them."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.helpers.layouts import write_image, write_text
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.csv_rle import find

PIXELS = np.zeros((20, 40), bool)
PIXELS[3:9, 5:12] = True
PIXELS[7:15, 8:10] = True


def encode(pixels):
    """The code as Kaggle documents it: pairs of the first pixel, counted from 1 down the columns, and a length."""
    runs = []
    column_by_column = [*pixels.T.ravel().tolist(), False]
    start = None
    for number, value in enumerate(column_by_column, start=1):
        if value and start is None:
            start = number
        elif not value and start is not None:
            runs += [start, number - start]
            start = None
    return " ".join(map(str, runs))


@pytest.fixture
def table(tmp_path):
    """Writes two images, and a table with the given text."""

    def write(text, name="train.csv", suffix=".png"):
        for stem in ("a", "b"):
            write_image(tmp_path / f"train_images/{stem}{suffix}", (40, 20))
        write_text(tmp_path / name, text)
        return tmp_path

    return write


def test_codes_become_masks_with_their_boxes_and_areas(table):
    data = find(table(f"ImageId,EncodedPixels,ClassId\na.png,{encode(PIXELS)},cat\nb.png,1 1,dog\n"))
    content = data.splits["train"]()
    first, second = content["annotations"]
    assert (coco_mask.decode(first["segmentation"]) == PIXELS).all()
    assert first["bbox"] == [5, 3, 7, 12]
    assert first["area"] == PIXELS.sum()
    assert second["bbox"] == [0, 0, 1, 1]
    assert [category["name"] for category in content["categories"]] == ["cat", "dog"]
    assert [image["file_name"] for image in content["images"]] == ["train_images/a.png", "train_images/b.png"]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("ImageId,EncodedPixels\na.png,1 1\nb.png,1 1\n", [("object", 1), ("object", 1)]),
        ("ImageId,ClassId,EncodedPixels\na.png,10,1 1\nb.png,9,1 1\n", [("class 10", 2), ("class 9", 1)]),
        ("ImageId_ClassId,EncodedPixels\na.png_1,1 1\nb.png_2,1 1\n", [("class 1", 1), ("class 2", 2)]),
        ("Image_Label,EncodedPixels\na.png_Fish,1 1\nb.png_Sugar,1 1\n", [("Fish", 1), ("Sugar", 2)]),
        ("id,annotation,width,height,cell_type\na,1 1,40,20,astro\nb,1 1,40,20,cort\n", [("astro", 1), ("cort", 2)]),
        ("img,rle_mask\na,1 1\nb,1 1\n", [("object", 1), ("object", 1)]),
    ],
    ids=["ships", "steel", "steel, older", "clouds", "cells", "salt"],
)
def test_the_columns_of_known_competitions_are_read(table, text, classes):
    content = find(table(text)).splits["train"]()
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert [(names[each["category_id"]], each["category_id"]) for each in content["annotations"]] == classes


@pytest.mark.parametrize("code", ["", "-1", "nan"])
def test_a_line_without_a_code_is_an_image_without_objects(table, code):
    content = find(table(f"ImageId,EncodedPixels\na.png,1 1\nb.png,{code}\n")).splits["train"]()
    assert len(content["images"]) == 2
    assert [annotation["image_id"] for annotation in content["annotations"]] == [1]


def test_tables_are_splits_and_sample_submissions_are_passed_over(table):
    table("ImageId,EncodedPixels\na.png,1 1\n", "valid.csv")
    table("ImageId,EncodedPixels\na.png,1 1\n", "sample_submission.csv")
    root = table("ImageId,EncodedPixels\nb.png,1 1\n")
    data = find(root)
    assert {split: len(read()["images"]) for split, read in data.splits.items()} == {"train": 1, "val": 1}
    table("ImageId,EncodedPixels\nb.png,1 1\n", "masks.csv")
    with raises_user_error("several tables", "masks.csv, train.csv"):
        find(root)
    assert set(find(root / "masks.csv").splits) == {"train"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1", ["not pairs of numbers"]),
        ("1 2 3 x", ["not pairs of numbers"]),
        ("0 5", ["begin with 0 instead of 1"]),
        ("1 5 3 5", ["overlap"]),
        ("795 7", ["beyond the image"]),
    ],
)
def test_faults_of_codes_are_reported_with_their_lines(table, code, words):
    with raises_user_error("train.csv, line 3", *words):
        find(table(f"ImageId,EncodedPixels\na.png,1 1\nb.png,{code}\n")).splits["train"]()


def test_the_last_pixel_belongs_to_the_image(table):
    (annotation,) = find(table("ImageId,EncodedPixels\na.png,800 1\n")).splits["train"]()["annotations"]
    assert annotation["bbox"] == [39, 19, 1, 1]


def test_an_image_that_is_missing_is_refused(table):
    with raises_user_error("not below the data directory", "gone.png"):
        find(table("ImageId,EncodedPixels\ngone.png,1 1\n")).splits["train"]()


def test_other_tables_are_not_taken(table):
    assert find(table("filename,xmin,ymin,xmax,ymax\na.png,1,2,3,4\n")) is None
