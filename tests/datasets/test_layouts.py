"""Data sets as people lay them out: what is found, and what is said where nothing is."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.layouts import (
    Split,
    files_in,
    find_coco,
    find_labels,
    has_masks,
    read_categories,
    read_names,
    read_palette,
    read_values,
)


@pytest.fixture
def coco(tmp_path):
    """Writes a split: an annotation file and its two pictures, under the given names."""

    def write(annotations, pictures, names=("a.jpg", "b.jpg"), **annotation):
        for directory in ((tmp_path / annotations).parent, tmp_path / pictures):
            directory.mkdir(parents=True, exist_ok=True)
        images = [{"id": number, "file_name": name, "width": 8, "height": 8} for number, name in enumerate(names)]
        content = {"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / annotations).write_text(json.dumps(content))
        for name in names:
            (tmp_path / pictures / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / pictures / name).touch()
        return tmp_path

    return write


@pytest.fixture
def labelled(tmp_path):
    """Makes two directories, of pictures and of label pictures."""

    def write(pictures, labels, names=("a.jpg", "b.jpg"), end=".png", values=((0, 1),)):
        for name in names:
            for path in (tmp_path / pictures / name, tmp_path / labels / f"{name.rpartition('.')[0]}{end}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.array(values, np.uint8)).save(path)
        return tmp_path

    return write


# COCO


@pytest.mark.parametrize(
    ("annotations", "pictures", "train", "val"),
    [
        ("annotations/instances_{}2017.json", "{}2017", "train", "val"),
        ("annotations/instances_{}2017.json", "images/{}2017", "train", "val"),
        ("annotations/instances_{}.json", "{}", "train", "val"),
        ("annotations/instances_{}.json", "images/{}", "training", "validation"),
        ("annotations/{}.json", "images", "train", "val"),
        ("{}/_annotations.coco.json", "{}", "train", "valid"),
        ("{}.json", "images", "train", "val"),
        ("{}.json", "images/{}", "train", "valid"),
    ],
)
def test_the_usual_layouts_are_found(coco, annotations, pictures, train, val):
    for split in (train, val):
        root = coco(annotations.format(split), pictures.format(split))
    found = find_coco(root).splits
    assert found == {
        "train": Split(pictures.format(train), annotations.format(train)),
        "val": Split(pictures.format(val), annotations.format(val)),
    }


def test_a_test_split_is_found_beside_the_others(coco):
    for split in ("train", "valid", "test"):
        root = coco(f"{split}/_annotations.coco.json", split)
    assert find_coco(root).splits["test"] == Split("test", "test/_annotations.coco.json")


def test_without_a_held_out_split_its_place_is_named(coco):
    root = coco("annotations/instances_default.json", "images")
    layout = find_coco(root)
    assert layout.splits == {"train": Split("images", "annotations/instances_default.json")}
    assert layout.absent_val == Split("val", "annotations/instances_val.json")


@pytest.mark.parametrize(
    ("pictures", "names"),
    [("images", ("train/a.jpg", "train/b.jpg")), ("", ("images/a.jpg",)), ("annotations", ("im/a.jpg",))],
    ids=["below", "at the root", "beside the annotations"],
)
def test_pictures_are_found_by_the_names_in_the_file(coco, pictures, names):
    root = coco("annotations/train.json", pictures, names)
    (root / "train").mkdir()
    (root / "images").mkdir(exist_ok=True)
    assert find_coco(root).splits["train"].pictures == pictures


def test_names_that_are_not_valid_json_do_not_hinder_the_search(coco):
    root = coco("train.json", "images")
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text.replace("a.jpg", r"train\images\a.jpg"))
    assert find_coco(root).splits["train"].pictures == "images"


def test_an_unknown_layout_says_what_was_looked_for(tmp_path):
    (tmp_path / "labels.json").write_text("{}")
    with raises_user_error(
        tmp_path, "annotations/instances_train2017.json", "train/_annotations.coco.json", "train.json"
    ):
        find_coco(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [([[1, 2, 3, 4, 5, 6]], True), ({"counts": "a", "size": [8, 8]}, True), ([], False), (None, False), ([[]], True)],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_masks_are_seen(coco, segmentation, expected, indent):
    path = coco("train.json", "images", segmentation=segmentation) / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))
    assert has_masks(path) == expected


# Label pictures


@pytest.mark.parametrize(
    ("pictures", "labels", "train", "val"),
    [
        ("images/{}", "annotations/{}", "training", "validation"),
        ("images/{}", "labels/{}", "train", "val"),
        ("images/{}", "masks/{}", "train", "valid"),
        ("img_dir/{}", "ann_dir/{}", "train", "val"),
        ("{}/images", "{}/masks", "train", "val"),
    ],
)
@pytest.mark.parametrize(("suffix", "end"), [(".jpg", ".png"), (".PNG", "_mask.png"), ("_rgb.png", "_rgb.png")])
def test_the_usual_layouts_of_label_pictures_are_found(labelled, pictures, labels, train, val, suffix, end):
    for split in (train, val):
        # A picture's name that begins another's.
        root = labelled(pictures.format(split), labels.format(split), [f"{number}{suffix}" for number in (1, 10)], end)
    found = find_labels(root).splits
    assert list(found) == ["train", "val"]
    for name, split in zip((train, val), found.values()):
        assert (split.pictures, split.annotations) == (pictures.format(name), labels.format(name))
        names = files_in(root / split.pictures, [split.picture_suffix])
        assert len(names) == 2
        for name in names:
            assert (root / split.annotations / (name.removesuffix(split.picture_suffix) + split.label_suffix)).is_file()


def test_pictures_without_splits_are_all_for_training(labelled):
    layout = find_labels(labelled("images", "masks"))
    assert layout.splits == {"train": Split("images", "masks", ".jpg", ".png")}


def test_an_unknown_layout_of_label_pictures_says_what_was_looked_for(tmp_path):
    with raises_user_error(
        tmp_path, "images/train + annotations/train", "images/train + masks/train", "images + masks"
    ):
        find_labels(tmp_path)


def test_pictures_of_several_kinds_are_refused(labelled):
    root = labelled("images/train", "masks/train", ["a.jpg", "b.png", "c.png"])
    with raises_user_error(".png: 2", ".jpg: 1", "images/train"):
        find_labels(root)


def test_labels_of_other_names_are_refused(labelled):
    root = labelled("images/train", "masks/other")
    (root / "masks/other").rename(root / "masks/train")
    for label in (root / "masks/train").iterdir():
        label.rename(label.with_stem(f"mask_{label.stem}"))
    with raises_user_error("masks/train", "a.png"):
        find_labels(root)


def test_values_are_read_from_every_label_but_255(labelled, tmp_path):
    root = labelled("images", "masks", values=((0, 3), (255, 1)))
    Image.new("RGB", (2, 2), (9, 9, 9)).save(root / "masks/colours.png")
    (root / "masks/broken.png").write_bytes(b"no picture")
    Image.fromarray(np.array([[7, 300]], np.uint16)).save(root / "masks/deep.png")
    assert read_values(sorted((root / "masks").iterdir())) == {0, 1, 3, 7, 300}


@pytest.mark.parametrize("kind", ["colours", "broken"])
def test_labels_of_which_none_holds_values_are_refused(tmp_path, kind):
    path = tmp_path / "1.png"
    Image.new("RGB", (2, 2)).save(path) if kind == "colours" else path.write_bytes(b"no picture")
    with raises_user_error("None of 1 label pictures", path, "RGB" if kind == "colours" else "cannot be read"):
        read_values([path])


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("classes.txt", "road\n\nthe sky \n", (["road", "the sky"], False)),
        ("label_names.json", '{"0": "road", "2": "sky"}', (["road", "class 1", "sky"], False)),
        ("label_names.json", '{"2": "sky", "1": "road", "255": "void"}', (["road", "sky"], True)),
    ],
)
def test_names_are_read_by_value(tmp_path, file, content, expected):
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


def test_the_palette_of_a_label_picture_is_read(tmp_path):
    label = Image.fromarray(np.array([[0, 1]], np.uint8))
    label.save(tmp_path / "grey.png")
    label.putpalette([0, 0, 0, 128, 64, 32])
    label.save(tmp_path / "palette.png")
    assert read_palette(tmp_path / "palette.png")[:2] == [(0, 0, 0), (128, 64, 32)]
    assert read_palette(tmp_path / "grey.png") == []


# Categories

NAMES = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
KEYPOINTS = [{"id": 1, "name": "person", "keypoints": ["nose", "eye [left]"], "skeleton": [[16, 14], [14, 12]]}]
PICTURES = [
    {"id": 1, "file_name": "categories/1.jpg"},
    {"id": 2, "file_name": "categories"},
    {"id": 3, "file_name": '"categories": [1.jpg'},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("categories", [NAMES, KEYPOINTS], ids=["names", "keypoints"])
@pytest.mark.parametrize("pictures", [[], PICTURES[:1], PICTURES[:2], PICTURES], ids=range(4))
def test_categories_are_read_wherever_they_stand(tmp_path, categories, first, indent, pictures):
    rest = {"images": pictures, "annotations": [{"id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[1, 2, 3, 4]]}]}
    content = {"categories": categories, **rest} if first else {**rest, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content, indent=indent))
    assert read_categories(tmp_path / "a.json") == categories


def test_long_lists_of_categories_are_read_whole(tmp_path):
    categories = [{"id": number, "name": f"Größe {number}", "synonyms": ["a", "b"]} for number in range(5000)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": categories, "images": []}, ensure_ascii=False), "utf-8")
    assert read_categories(tmp_path / "a.json") == categories


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["has no categories"]),
        ('{"images": [{"id": 1', ["not valid JSON", "ends in the middle"]),
        ('{"categories": [{"id": 1, "na', ["not valid JSON"]),
        ('{"images": []}', ["has no categories"]),
        ('{"categories": []}', ["has no categories"]),
        ('{"categories": [{"id": 1, "name": 1}]}', ["has no categories"]),
    ],
)
def test_files_without_categories_say_why(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with raises_user_error(tmp_path / "a.json", *words):
        read_categories(tmp_path / "a.json")


def test_categories_agree_with_pycocotools_on_real_annotations(shared):
    path = shared / "data/coco128/annotations/instances_train2017.json"
    assert read_categories(path) == json.loads(path.read_text())["categories"]
    assert len(read_categories(path)) == 80
