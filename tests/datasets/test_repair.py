"""Faults with one possible meaning are repaired. pycocotools reads the result as the user means it."""

import copy
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from xcit_dense.datasets.repair import repair

TRIANGLE = [2, 3, 22, 3, 22, 13]


def make(number=4):
    """Clean content: one object on each image, of two classes in turn."""
    return {
        "info": {"year": 2024},
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 30} for n in range(number)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n,
                "category_id": (3, 5)[n % 2],
                "bbox": [2, 3, 20, 10],
                "area": 100.0,
                "segmentation": [list(TRIANGLE)],
                "iscrowd": 0,
            }
            for n in range(number)
        ],
    }


def change(kind, *numbers, **values):
    content = make()
    for number in numbers or range(len(content[kind])):
        for name, value in values.items():
            if value is None:
                del content[kind][number][name]
            else:
                content[kind][number][name] = value
    return content


def values(content, kind, name):
    return [entry.get(name) for entry in content[kind]]


def evaluate(content, kind="bbox"):
    """The average precision of predictions that equal the ground truth of clean content."""
    truth = COCO()
    truth.dataset = json.loads(json.dumps(content))
    truth.createIndex()
    by_name = {category["name"]: category["id"] for category in content["categories"]}
    results = []
    for image, annotation in zip(content["images"], make()["annotations"]):
        name = {3: "cat", 5: "dog"}[annotation["category_id"]]
        result = {"image_id": image["id"], "category_id": by_name[name], "score": 0.9}
        code = truth.annToRLE({"image_id": image["id"], "segmentation": [TRIANGLE]})
        results.append(result | ({"bbox": annotation["bbox"]} if kind == "bbox" else {"segmentation": code}))
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_content_without_faults_does_not_change():
    content = make()
    repaired, notes = repair(content, lambda name: name, masks=True)
    assert repaired == content
    assert notes == []


def test_the_given_content_does_not_change():
    content = change("annotations", id=0, iscrowd=None)
    before = copy.deepcopy(content)
    repair(content)
    assert content == before


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (change("annotations", 0, id=0), "annotation ids replaced"),
        (change("annotations", 2, id=1), "an id is given twice"),
        (change("annotations", 2, id="7"), "not a whole number"),
        (change("annotations", 2, id=None), "missing"),
    ],
)
def test_annotation_ids_from_one_are_given(content, note):
    repaired, notes = repair(content)
    assert values(repaired, "annotations", "id") == [1, 2, 3, 4]
    assert len(notes) == 1
    assert note in notes[0]
    assert notes[0].endswith(": 4")


NEEDS_REPAIR = {
    "nothing": make(),
    "one id 0": change("annotations", 0, id=0),
    "all ids 0": change("annotations", id=0),
    "no iscrowd": change("annotations", iscrowd=None),
    "no area": change("annotations", area=None),
    "area 0": change("annotations", area=0),
    "a point before a polygon": change("annotations", segmentation=[[1, 2], TRIANGLE]),
    "a line after a polygon": change("annotations", segmentation=[TRIANGLE, [1, 2, 3, 4]]),
    "polygons of no and of odd length": change("annotations", segmentation=[[], TRIANGLE, [1, 2, 3]]),
    "a polygon outside a list": change("annotations", segmentation=TRIANGLE),
    "no box": change("annotations", bbox=None),
}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("content", NEEDS_REPAIR.values(), ids=NEEDS_REPAIR)
def test_perfect_predictions_have_the_average_precision_one(content, kind):
    repaired, _ = repair(content, masks=True)
    assert evaluate(repaired, kind) == 1


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["cat1", "cat2"], [1, 2]),
        (["2", "1"], [1, 2]),
        ([5, 3], [1, 2]),
        ([2, 1], [1, 2]),
        ([-1, 0], [1, 2]),
        ([1.0, 2.0], [1, 2]),
        ([0, 1], [0, 1]),
        ([3, 5], [3, 5]),
    ],
)
def test_category_ids_become_numbers_that_rise_in_the_files_order(ids, expected):
    content = make()
    for category, new in zip(content["categories"], ids):
        category["id"] = new
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = ids[number % 2]
    repaired, notes = repair(content)
    assert values(repaired, "categories", "id") == expected
    assert values(repaired, "annotations", "category_id") == expected * 2
    assert len(notes) == (ids not in ([0, 1], [3, 5]))
    assert evaluate(repaired) == 1


def test_the_ids_after_a_category_that_is_left_out_stay():
    content = make()
    content["categories"].insert(0, {"id": 1, "name": "animal"})
    for category in content["categories"][1:]:
        category["supercategory"] = "animal"
    repaired, notes = repair(content)
    assert repaired["categories"] == content["categories"][1:]
    assert repaired["annotations"] == content["annotations"]
    assert notes == ["categories without objects left out (animal): 1"]
    assert repair(content, classes=["animal", "cat"])[0] == content


def test_ids_as_text_are_the_numbers_that_they_mean():
    content = change("annotations", category_id="3")
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    repaired, notes = repair(content)
    assert values(repaired, "annotations", "image_id") == [0, 1, 2, 3]
    assert values(repaired, "annotations", "category_id") == [3] * 4
    assert notes == [f"{key} written as another type than the id: 4" for key in ("image_id", "category_id")]


def test_image_ids_as_text_become_numbers():
    content = make()
    for image, annotation in zip(content["images"], content["annotations"]):
        image["id"] = annotation["image_id"] = image["file_name"]
    repaired, _ = repair(content)
    assert values(repaired, "images", "id") == values(repaired, "annotations", "image_id") == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["images", "categories"])
def test_ids_with_two_meanings_stay_for_the_check(kind):
    content = change(kind, id="x")
    repaired, _ = repair(content)
    assert values(repaired, kind, "id") == ["x"] * len(content[kind])


def test_areas_are_the_pixels_of_the_mask_or_of_the_box():
    repaired, notes = repair(change("annotations", 1, area=None))
    assert repaired["annotations"][1]["area"] == pytest.approx(100, abs=15)
    assert notes == ["areas computed where they were missing or not positive: 1"]
    content = change("annotations", 1, area="100", segmentation=[])
    assert repair(content)[0]["annotations"][1]["area"] == 200


def test_a_box_without_a_pixel_keeps_its_area():
    content = change("annotations", 1, area=0, bbox=[2, 3, 20, 0])
    assert repair(content)[0] == content


@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_iscrowd_becomes_a_number(value):
    repaired, _ = repair(change("annotations", 1, iscrowd=value))
    assert [type(value) for value in values(repaired, "annotations", "iscrowd")] == [int] * 4
    assert values(repaired, "annotations", "iscrowd") == [0, 1, 0, 0]


def test_crowds_become_objects_if_the_user_says_so():
    content = change("annotations", 1, 2, iscrowd=1)
    assert repair(content)[0] == content
    repaired, notes = repair(content, crowd_as_objects=True)
    assert values(repaired, "annotations", "iscrowd") == [0] * 4
    assert notes == ["objects with iscrowd=1 used as ordinary objects (--crowd-as-objects): 2"]


@pytest.mark.parametrize("polygons", [[[1, 2]], [[1, 2, 3, 4]], [[], [1, 2], [5, 6, 7, 8, 9]]])
def test_an_object_whose_polygons_are_too_short_is_ignored_if_masks_are_needed(polygons):
    content = change("annotations", 1, segmentation=polygons)
    repaired, notes = repair(content, masks=True)
    assert repaired["annotations"][1]["iscrowd"] == 1
    assert notes == ["objects ignored, because their polygons have fewer than three points: 1"]
    assert evaluate(repaired, "segm") == 1
    assert repair(content)[0]["annotations"][1]["iscrowd"] == 0  # boxes are learned


def test_empty_polygons_are_no_mask():
    repaired, notes = repair(change("annotations", segmentation=[[]]), masks=True)
    assert values(repaired, "annotations", "segmentation") == [[]] * 4
    assert notes == ["empty polygons removed: 4"]


def test_missing_boxes_are_computed_from_run_length_codes():
    counts = np.diff([0, 5 * 30 + 2, 5 * 30 + 8, 40 * 30]).tolist()  # rows 2 to 7 of column 5
    content = change("annotations", 0, segmentation={"size": [30, 40], "counts": counts}, bbox=None)
    assert repair(content)[0]["annotations"][0]["bbox"] == [5, 2, 1, 6]


def test_file_names_are_what_the_search_for_images_finds():
    found = {"0.jpg": "0.jpg", "1.jpg": "deep/1.jpg", "a\\2.jpg": "a/2.jpg"}
    content = change("images", 2, file_name="a\\2.jpg")
    repaired, notes = repair(content, found.get)
    assert values(repaired, "images", "file_name") == ["0.jpg", "deep/1.jpg", "a/2.jpg", "3.jpg"]
    assert sorted(notes) == [
        "backslashes in file names read as separators: 1",
        "images found in another directory by their names: 1",
    ]


def test_a_missing_list_of_annotations_is_an_empty_list():
    content = make()
    del content["annotations"]
    repaired, notes = repair(content)
    assert repaired["annotations"] == []
    assert len(notes) == 1


@pytest.mark.parametrize("kind", ["images", "categories", "annotations"])
def test_any_value_in_an_entry_passes_without_an_error(kind):
    values = (None, 0, -1, 1e400, float("nan"), "x", "\0", "", [], {}, [[]], [None], [TRIANGLE, None], [[1, "a"] * 3])
    for key in (*make()[kind][1], "other"):
        for value in (*values, {"size": 1}, {"counts": [1, "a"], "size": [30, 40]}, {"counts": 7, "size": [30, 40]}):
            content = make()
            content[kind][1][key] = value
            repaired, _ = repair(content, masks=True, crowd_as_objects=True)
            assert len(repaired[kind]) == len(content[kind])
    content = {**make(), kind: [None, "text", 7, []]}
    assert repair(content)[0][kind] == content[kind]
