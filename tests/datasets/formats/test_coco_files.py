"""COCO files in the layouts of the usual exporters: files, splits and images are found wherever they are."""

import json

import pytest

from tests.helpers.layouts import (
    IMAGES,
    SPLITS,
    boxes,
    coco_content,
    expected_boxes,
    write_coco,
    write_image,
    write_text,
)
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.coco_files import find
from xcit_dense.datasets.formats.splits import Split

EXPECTED = {split: expected_boxes(names) for split, names in SPLITS.items()}


def write_images(root, names, suffix=".png"):
    for name in names:
        write_image(root / f"{name}{suffix}", IMAGES[name][0])


def write_json(path, content):
    write_text(path, json.dumps(content))


def read(data):
    """The boxes of each split. Every image exists below the root."""
    contents = {split: read_split() for split, read_split in data.splits.items()}
    for content in contents.values():
        assert all((data.root / image["file_name"]).is_file() for image in content["images"])
    return {split: boxes(content) for split, content in contents.items()}


# Of each split: the annotation file, the images' directory, and the beginning of the names in the file.
LAYOUTS = {
    "COCO": ("annotations/instances_{}2017.json", "{}2017", ""),
    "Roboflow": ("{}/_annotations.coco.json", "{}", ""),
    "CVAT": ("annotations/instances_{}.json", "images/{}", ""),
    "CVAT with capitals": ("annotations/instances_{}.json", "images/{}", ""),
    "Supervisely": ("{}/annotations/instances.json", "{}/images", ""),
    "FiftyOne": ("{}/labels.json", "{}/data", ""),
    "names from the root": ("annotations/{}.json", "pictures/{}", "pictures/{}/"),
    "names with the split": ("{}_annotations.json", "photos", ""),
}


@pytest.mark.parametrize(("file", "images", "prefix"), LAYOUTS.values(), ids=LAYOUTS)
def test_files_that_name_their_split_are_used_as_they_are(tmp_path, file, images, prefix, request):
    for split, names in SPLITS.items():
        name = {"Roboflow": {"val": "valid"}, "CVAT with capitals": {"train": "Train", "val": "Validation"}}
        name = name.get(request.node.callspec.id, {}).get(split, split)
        write_images(tmp_path / images.format(name), names)
        write_json(tmp_path / file.format(name), coco_content(names, prefix.format(name)))
    data = find(tmp_path)
    assert read(data) == EXPECTED
    assert data.files.keys() == SPLITS.keys()
    for split, place in data.files.items():
        content = json.loads((tmp_path / place.annotations).read_text())
        assert len(content["images"]) == len(SPLITS[split])
        assert all((tmp_path / place.images / image["file_name"]).is_file() for image in content["images"])
    assert list(data.notes) == []


def test_a_directory_around_the_data_is_passed_even_if_other_data_has_the_same_names(tmp_path):
    for split, names in SPLITS.items():
        write_images(tmp_path / f"export/{split}2017", names)
        write_images(tmp_path / f"export/labelled/{split}", names)
        write_json(tmp_path / f"export/annotations/instances_{split}2017.json", coco_content(names))
    data = find(tmp_path)
    assert data.root == tmp_path / "export"
    assert read(data) == EXPECTED


@pytest.mark.parametrize("file", ["result.json", "annotations.json", "annotations/instances_default.json", "x/my.json"])
@pytest.mark.parametrize("images", ["images", "imgs/default", ""])
def test_a_single_file_is_for_training(tmp_path, file, images):
    write_images(tmp_path / images, IMAGES)
    write_json(tmp_path / file, coco_content(IMAGES))
    data = find(tmp_path)
    assert read(data) == {"train": expected_boxes(IMAGES)}
    assert data.files == {"train": Split(images, file)}
    assert find(tmp_path / file).splits.keys() == {"train"}


@pytest.mark.parametrize(
    ("prefix", "note"),
    [
        ("images\\", "backslashes in file names read as separators: 4"),
        ("C:\\data\\", "images found in another directory by their names: 4"),
        ("/home/me/photos/", "images found in another directory by their names: 4"),
        ("https://example.com/data/", "images found in another directory by their names: 4"),
    ],
)
def test_names_from_another_machine_lead_to_the_images_below_the_root(tmp_path, prefix, note):
    write_images(tmp_path / "images", IMAGES)
    write_json(tmp_path / "result.json", coco_content(IMAGES, prefix))
    data = find(tmp_path)
    assert data.files == {}, "MMDetection would not find the images"
    assert read(data) == {"train": expected_boxes(IMAGES)}
    assert list(data.notes) == [f"result.json: {note}"]


def test_images_in_several_directories_are_found_by_their_names(tmp_path):
    write_images(tmp_path / "images/first", "ab")
    write_images(tmp_path / "images/second", "cd")
    write_json(tmp_path / "annotations.json", coco_content(IMAGES))
    data = find(tmp_path)
    assert data.files == {}
    assert read(data) == {"train": expected_boxes(IMAGES)}


def test_one_file_for_all_splits_is_split_by_the_directories_of_its_images(tmp_path):
    content = coco_content(IMAGES)
    for image in content["images"]:
        directory = "val" if image["file_name"] == "d.png" else "train"
        write_image(tmp_path / directory / image["file_name"], (image["width"], image["height"]))
        image["file_name"] = f"{directory}/{image['file_name']}"
    write_json(tmp_path / "annotations.json", content)
    data = find(tmp_path)
    assert read(data) == EXPECTED
    assert data.files == {}


def test_a_missing_image_is_not_replaced_by_an_image_of_another_split(tmp_path):
    for split in ("train", "valid"):
        write_images(tmp_path / split, IMAGES)
        write_json(tmp_path / split / "_annotations.coco.json", coco_content(IMAGES))
    (tmp_path / "valid/a.png").unlink()
    data = find(tmp_path)
    assert data.files["val"] == Split("valid", "valid/_annotations.coco.json")
    assert data.splits["val"]()["images"][0]["file_name"] == "valid/a.png"


def test_ids_from_0_are_repaired_when_the_file_is_read(tmp_path):
    write_coco(tmp_path, first=0)
    data = find(tmp_path)
    assert [annotation["id"] for annotation in data.splits["train"]()["annotations"]] == [1, 2, 3]
    assert "annotation ids replaced" in next(iter(data.notes))


def test_files_of_other_tasks_are_passed_over(tmp_path):
    write_coco(tmp_path)
    for split, names in SPLITS.items():
        path = tmp_path / f"annotations/instances_{split}.json"
        path.rename(tmp_path / f"annotations/instances_{split}_v2.json")
        write_json(tmp_path / f"annotations/person_keypoints_{split}_v2.json", coco_content(names))
    assert {split: place.annotations for split, place in find(tmp_path).files.items()} == {
        "train": "annotations/instances_train_v2.json",
        "val": "annotations/instances_val_v2.json",
    }


def test_several_files_for_a_split_are_refused_with_their_names(tmp_path):
    write_images(tmp_path, IMAGES)
    for name in ("first", "second"):
        write_json(tmp_path / f"{name}.json", coco_content(IMAGES))
    with raises_user_error("first.json, second.json", f"--data-root {tmp_path / 'first.json'}"):
        find(tmp_path)


def test_a_file_without_a_split_is_passed_over_with_a_note(tmp_path):
    write_images(tmp_path, IMAGES)
    for name in ("train_v1", "val_v1", "all"):
        write_json(tmp_path / f"{name}.json", coco_content(IMAGES))
    data = find(tmp_path)
    assert set(data.splits) == {"train", "val"}
    assert list(data.notes) == ["COCO files whose path names no split, which are passed over: 1 (all.json)"]


def test_a_damaged_file_is_refused_with_the_place_of_the_damage(tmp_path):
    write_images(tmp_path, IMAGES)
    write_text(tmp_path / "result.json", json.dumps(coco_content(IMAGES))[:-100])
    with raises_user_error("result.json is not valid JSON", "line 1"):
        find(tmp_path).splits["train"]()


@pytest.mark.parametrize(
    "content",
    [
        {"shapes": [], "imagePath": "a.png"},
        [{"image_id": 1, "bbox": [1, 2, 3, 4]}],
        {"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024}},
        {"images": ["a.png", "b.png"]},
        7,
    ],
    ids=["LabelMe", "results", "Label Studio's notes", "a list of names", "a number"],
)
def test_other_json_files_are_not_taken(tmp_path, content):
    write_images(tmp_path, IMAGES)
    write_json(tmp_path / "other.json", content)
    assert find(tmp_path) is None


def test_a_file_without_its_images_is_not_taken(tmp_path):
    write_json(tmp_path / "annotations/instances_default.json", coco_content(IMAGES))
    assert find(tmp_path) is None
