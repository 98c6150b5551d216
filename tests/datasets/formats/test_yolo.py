"""YOLO's label files: every layout of the usual tools, and faults with their places."""

import pytest
from PIL import Image

from tests.helpers.layouts import (
    CLASSES,
    IMAGES,
    SPLITS,
    boxes,
    corners,
    expected_boxes,
    write_image,
    write_text,
    write_yolo,
    yolo_lines,
)
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.yolo import find


def read(data):
    return {split: boxes(read_split()) for split, read_split in data.splits.items()}


EXPECTED = {split: expected_boxes(names) for split, names in SPLITS.items()}


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images/{}", "labels/{}"), ("{}/images", "{}/labels"), ("data/{}", "data/{}")],
    ids=["images above", "images below", "labels next to images"],
)
@pytest.mark.parametrize("masks", [False, True])
def test_boxes_and_polygons_are_read_from_the_layouts_of_a_description(tmp_path, images, labels, masks):
    data = find(write_yolo(tmp_path, masks, images, labels))
    assert read(data) == EXPECTED
    content = data.splits["val"]()
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == ([corners(IMAGES["d"][1][0][1])] if masks else [])
    assert annotation["area"] == 64 * 24
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert list(data.notes) == []


def test_the_description_may_be_named(tmp_path):
    write_yolo(tmp_path, description="coco.yaml")
    write_text(tmp_path / "other.yaml", "train: images/val\nnames: [x, y]\n")
    with raises_user_error("coco.yaml, other.yaml", f"--data-root {tmp_path / 'coco.yaml'}"):
        find(tmp_path)
    assert read(find(tmp_path / "coco.yaml")) == EXPECTED


@pytest.mark.parametrize(
    "entries",
    [
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2",
        "path: /home/somebody/data\ntrain: train/images\nval: valid/images",
        "train: [train/images]\nval: [valid/images]",
        "train: train.txt\nval: val.txt",
        "train: .\\train\\images\nval: valid\\images",
    ],
    ids=["Roboflow", "path of another machine", "lists of directories", "lists of images", "Windows"],
)
@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "\n- cat\n- dog"])
def test_the_ways_to_write_a_description_are_read(tmp_path, entries, names):
    splits = {"train": SPLITS["train"], "valid": SPLITS["val"]}
    write_yolo(tmp_path, False, "{}/images", "{}/labels", None, splits)
    for split, directory in (("train", "train"), ("val", "valid")):
        lines = [f"./{directory}/images/{name}.png" for name in SPLITS[split]]
        write_text(tmp_path / f"{split}.txt", "\n".join(lines))
    write_text(tmp_path / "data.yaml", f"{entries}\nnames: {names}\n")
    data = find(tmp_path)
    assert read(data) == EXPECTED
    expected = ["places that data.yaml names and that do not exist: 1 (test: ../test/images)"]
    assert list(data.notes) == (expected if "test:" in entries else [])


@pytest.mark.parametrize("name", ["no", "1", "1.0", "null", "2024-01-01"])
def test_names_that_yaml_takes_for_other_values_stay_text(tmp_path, name):
    write_yolo(tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(path.read_text().replace("cat", name))
    assert find(tmp_path).splits["train"]()["categories"][0]["name"] == name


@pytest.mark.parametrize("names", ["classes.txt", "obj.names", "labels/classes.txt"])
def test_a_file_of_names_takes_the_place_of_a_description(tmp_path, names):
    write_yolo(tmp_path, description=None)
    write_text(tmp_path / names, "cat\ndog\n")
    assert read(find(tmp_path)) == EXPECTED


def test_the_layout_of_darknet_is_read_with_lists_from_another_machine(tmp_path):
    for split, listed in SPLITS.items():
        for name in listed:
            write_image(tmp_path / f"obj_train_data/{name}.png", IMAGES[name][0])
            write_text(tmp_path / f"obj_train_data/{name}.txt", yolo_lines(name, masks=False).strip())
        write_text(
            tmp_path / f"{'valid' if split == 'val' else split}.txt",
            "\n".join(f"data/obj_train_data/{name}.png" for name in listed),
        )
    write_text(tmp_path / "obj.names", "cat\ndog")
    assert read(find(tmp_path)) == EXPECTED


def test_the_layout_of_roboflow_for_darknet_is_read(tmp_path):
    """Images and labels in one directory for each split, with the names in each directory."""
    splits = {"train": SPLITS["train"], "valid": SPLITS["val"]}
    write_yolo(tmp_path, False, "{}", "{}", None, splits)
    for split in splits:
        write_text(tmp_path / split / "_darknet.labels", "cat\ndog\n")
    assert read(find(tmp_path)) == EXPECTED


def test_images_and_labels_without_splits_are_all_for_training(tmp_path):
    write_yolo(tmp_path, False, "images", "labels", None)
    write_text(tmp_path / "classes.txt", "cat\ndog\n")
    assert read(find(tmp_path)) == {"train": expected_boxes("abcd")}


def test_coordinates_are_shares_of_the_upright_image(tmp_path):
    write_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.new("RGB", (20, 40)).save(tmp_path / "images/train/a.png", exif=exif)
    assert read(find(tmp_path)) == EXPECTED


def test_label_files_without_an_image_are_noted(tmp_path):
    write_yolo(tmp_path)
    write_text(tmp_path / "labels/train/z.txt", "0 0.5 0.5 0.1 0.1")
    data = find(tmp_path)
    assert list(data.notes) == ["label files without an image, which are passed over: 1 (labels/train/z.txt)"]


def test_boxes_next_to_polygons_leave_boxes_only_with_a_note(tmp_path):
    write_yolo(tmp_path, masks=True)
    write_text(tmp_path / "labels/train/b.txt", yolo_lines("b", masks=False))
    data = find(tmp_path)
    assert read(data) == EXPECTED
    assert not any(annotation["segmentation"] for annotation in data.splits["val"]()["annotations"])
    (note,) = data.notes
    assert "1 of 4 objects have no polygon" in note


def test_keypoints_are_noted_and_their_boxes_used(tmp_path):
    write_yolo(tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(path.read_text() + "kpt_shape: [1, 3]\n")
    for label in tmp_path.rglob("labels/*/*.txt"):
        label.write_text("\n".join(f"{line} 0.5 0.5 2" for line in label.read_text().splitlines()))
    data = find(tmp_path)
    assert read(data) == EXPECTED
    assert "objects with keypoints, of which only the boxes are used: 4" in next(iter(data.notes))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.1 0.1", ["classes other than 0 to 1", "line 2: 2"]),
        ("-1 0.5 0.5 0.1 0.1", ["classes other than 0 to 1"]),
        ("0.5 0.5 0.5 0.1 0.1", ["classes other than 0 to 1"]),
        ("0 100 50 20 30", ["not shares of the image's size"]),
        ("0 0.5 0.5 0.1", ["5 numbers", "line 2: 4 numbers"]),
        ("0 0.5 0.5 0.1 0.1 0.9", ["neither a class and a box", "line 2: 6 numbers"]),
        ("cat 0.5 0.5 0.1 0.1", ["not numbers"]),
        ("0 nan 0.5 0.1 0.1", ["not numbers"]),
    ],
)
def test_faults_of_lines_are_reported_with_their_places(tmp_path, line, words):
    write_yolo(tmp_path)
    path = tmp_path / "labels/train/b.txt"
    path.write_text(path.read_text() + line)
    with raises_user_error("labels/train/b.txt", *words):
        find(tmp_path).splits["train"]()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: images/train\nnames: [cat, cat]", ["a name twice"]),
        ("train: images/train\nnames: [cat, dog]\nnc: 3", ["nc: 3, but 2 names; write nc: 2"]),
        ("train: images/train\nnames: {1: cat, 2: dog}", ["0, 1, 2 and so on"]),
        ("train: gone\nnames: [cat, dog]", ["no existing images for training", "gone"]),
        ("train: [images/train\nnames: [cat", ["not valid YAML"]),
    ],
)
def test_faults_of_descriptions_are_reported(tmp_path, text, words):
    write_yolo(tmp_path)
    write_text(tmp_path / "data.yaml", text)
    with raises_user_error(tmp_path / "data.yaml", *words):
        find(tmp_path)


def test_label_files_without_names_are_refused(tmp_path):
    write_yolo(tmp_path, description=None)
    with raises_user_error("no file with the names", "classes.txt"):
        find(tmp_path)


def test_other_directories_are_not_taken(tmp_path):
    write_image(tmp_path / "images/a.png", (8, 8))
    write_text(tmp_path / "labels/a.txt", "some notes about the image")
    write_text(tmp_path / "config.yaml", "names: [a]")
    assert find(tmp_path) is None
