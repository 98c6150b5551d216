"""LabelMe's JSON files: shapes, groups, splits and faults."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.helpers.layouts import boxes, corners, shape, write_image, write_labelme, write_text
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.labelme import find

TRIANGLE = [[4, 2], [24, 2], [4, 12]]
SQUARE = [[30, 2], [38, 2], [38, 10], [30, 10]]


def only(data):
    """The only object of a data set."""
    (annotation,) = data.splits["train"]()["annotations"]
    return annotation


def test_polygons_become_objects_with_their_pixels_as_area(tmp_path):
    annotation = only(find(write_labelme(tmp_path, [shape("cat", "polygon", TRIANGLE)])))
    assert annotation["segmentation"] == [[4, 2, 24, 2, 4, 12]]
    assert annotation["bbox"] == [4, 2, 20, 10]
    (code,) = coco_mask.frPyObjects([[4, 2, 24, 2, 4, 12]], 20, 40)
    assert annotation["area"] == coco_mask.area(code)


def test_shapes_of_a_group_are_one_object(tmp_path):
    shapes = [shape("cat", "polygon", TRIANGLE, group=1), shape("cat", "polygon", SQUARE, group=1)]
    annotation = only(find(write_labelme(tmp_path, shapes)))
    assert len(annotation["segmentation"]) == 2
    assert annotation["bbox"] == [4, 2, 34, 10]


def test_groups_with_other_labels_in_other_images_or_without_a_number_are_other_objects(tmp_path):
    shapes = [
        shape("cat", "polygon", TRIANGLE, group=0),
        shape("dog", "polygon", SQUARE, group=0),
        shape("cat", "polygon", SQUARE),
        shape("cat", "polygon", SQUARE),
    ]
    write_labelme(tmp_path, shapes)
    write_labelme(tmp_path, [shape("cat", "polygon", TRIANGLE, group=0)], name="b")
    assert len(find(tmp_path).splits["train"]()["annotations"]) == 5


@pytest.mark.parametrize("points", [[[4, 2], [24, 12]], [[24, 12], [4, 2]], [[4, 2], [24, 2], [24, 12], [4, 12]]])
def test_rectangles_alone_are_boxes_without_masks(tmp_path, points):
    annotation = only(find(write_labelme(tmp_path, [shape("cat", "rectangle", points)])))
    assert annotation["bbox"] == [4, 2, 20, 10]
    assert annotation["area"] == 200
    assert annotation["segmentation"] == []


def test_rectangles_next_to_polygons_have_masks(tmp_path):
    shapes = [shape("cat", "rectangle", [[4, 2], [24, 12]]), shape("cat", "polygon", SQUARE)]
    first, _ = find(write_labelme(tmp_path, shapes)).splits["train"]()["annotations"]
    assert first["segmentation"] == [corners((4, 2, 24, 12))]


@pytest.mark.parametrize("radius", [1, 5, 60])
def test_a_circle_has_the_area_of_a_circle(tmp_path, radius):
    points = [[100, 100], [100 + radius * 0.6, 100 + radius * 0.8]]
    annotation = only(find(write_labelme(tmp_path, [shape("cat", "circle", points)], size=(200, 200))))
    x, y, width, height = annotation["bbox"]
    assert (x + width / 2, y + height / 2) == pytest.approx((100, 100), abs=0.5)
    assert (width, height) == pytest.approx((2 * radius, 2 * radius), abs=1)
    assert annotation["area"] == pytest.approx(np.pi * radius**2, rel=0.05, abs=2)


def test_a_mask_is_placed_at_its_corner(tmp_path):
    part = np.zeros((5, 6), bool)
    part[1:, 2:4] = True
    file = io.BytesIO()
    Image.fromarray(part).save(file, "PNG")
    points = [[10, 3], [15, 7]]
    mask = base64.b64encode(file.getvalue()).decode()
    annotation = only(find(write_labelme(tmp_path, [shape("cat", "mask", points, mask=mask)])))
    expected = np.zeros((20, 40), bool)
    expected[3:8, 10:16] = part
    assert (coco_mask.decode(annotation["segmentation"]) == expected).all()
    assert annotation["bbox"] == [12, 4, 2, 4]
    assert annotation["area"] == 8


def test_points_and_lines_are_passed_over_with_a_note(tmp_path):
    shapes = [shape("cat", "polygon", TRIANGLE), shape("tip", "point", [[1, 1]]), shape("x", "line", [[1, 1], [2, 2]])]
    data = find(write_labelme(tmp_path, shapes))
    assert only(data)
    assert [category["name"] for category in data.splits["train"]()["categories"]] == ["cat"]
    assert list(data.notes) == [
        "shapes of the type point, which are passed over: 1 (a.json)",
        "shapes of the type line, which are passed over: 1 (a.json)",
    ]


def test_classes_are_sorted_or_in_the_order_of_labels_txt(tmp_path):
    shapes = [shape("dog", "polygon", TRIANGLE), shape("cat", "polygon", SQUARE)]
    write_labelme(tmp_path, shapes)
    assert [category["name"] for category in find(tmp_path).splits["train"]()["categories"]] == ["cat", "dog"]
    write_text(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\nbird\ncat\n")
    data = find(tmp_path)
    assert [category["name"] for category in data.splits["train"]()["categories"]] == ["dog", "bird", "cat"]
    assert boxes(data.splits["train"]())["a"] == [("dog", (4, 2, 20, 10)), ("cat", (30, 2, 8, 8))]
    write_text(tmp_path / "labels.txt", "dog\n")
    with raises_user_error("labels.txt does not name cat"):
        find(tmp_path).splits["train"]()


def test_splits_come_from_directories(tmp_path):
    for split in ("train", "val"):
        write_labelme(tmp_path / split, [shape("cat", "polygon", TRIANGLE)])
    data = find(tmp_path)
    names = {split: read()["images"][0]["file_name"] for split, read in data.splits.items()}
    assert names == {"train": "train/a.png", "val": "val/a.png"}


def test_the_image_is_found_by_name_in_another_directory_and_its_size_is_read(tmp_path):
    write_labelme(tmp_path / "labels", [shape("cat", "polygon", TRIANGLE)], imagePath="..\\images\\a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels/a.png").rename(tmp_path / "images/a.png")
    (image,) = find(tmp_path).splits["train"]()["images"]
    assert image == {"id": 1, "file_name": "images/a.png", "width": 40, "height": 20}


def test_images_without_a_file_and_files_without_shapes_are_noted(tmp_path):
    write_labelme(tmp_path, [shape("cat", "polygon", TRIANGLE)])
    write_image(tmp_path / "z.png", (8, 8))
    write_text(tmp_path / "notes.json", json.dumps({"made": "by hand"}))
    data = find(tmp_path)
    assert only(data)
    assert list(data.notes) == [
        "images without a JSON file, which are passed over: 1 (z.png)",
        "JSON files without shapes, which are passed over: 1 (notes.json)",
    ]


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (shape("cat", "polygon", [[1, 1], [2, 2]]), ["type polygon with other points"]),
        (shape("cat", "circle", [[1, 1]]), ["type circle"]),
        (shape("cat", "rectangle", "left"), ["type rectangle"]),
        (shape("cat", "mask", [[0, 0], [1, 1]], mask="AAAA"), ["masks that are not readable"]),
    ],
)
def test_faults_are_reported_with_their_places(tmp_path, faulty, words):
    data = find(write_labelme(tmp_path, [faulty, shape("cat", "polygon", TRIANGLE)]))
    with raises_user_error("a.json", *words):
        data.splits["train"]()


def test_embedded_images_do_not_take_the_place_of_image_files(tmp_path):
    write_labelme(tmp_path, [shape("cat", "polygon", TRIANGLE)])
    (tmp_path / "a.png").unlink()
    with raises_user_error("without their image", "a.json"):
        find(tmp_path).splits["train"]()


def test_a_damaged_file_among_good_ones_is_refused_with_its_place(tmp_path):
    write_labelme(tmp_path, [shape("cat", "polygon", TRIANGLE)], name="b")
    write_text(tmp_path / "a.json", '{"shapes": [')
    with raises_user_error("a.json is not valid JSON"):
        find(tmp_path).splits["train"]()


def test_a_damaged_file_alone_shows_no_format(tmp_path):
    write_text(tmp_path / "a.json", '{"shapes": [')
    assert find(tmp_path) is None


def test_other_json_files_are_not_taken(tmp_path):
    write_text(tmp_path / "a.json", json.dumps({"images": [], "categories": []}))
    assert find(tmp_path) is None
