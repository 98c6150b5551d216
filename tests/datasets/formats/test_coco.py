"""COCO files and their images are found in the usual layouts; other layouts give an error that lists the usual ones."""

import json
import sys

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.coco import find_coco, has_masks, read_categories
from xcit_dense.datasets.formats.splits import Split
from xcit_dense.errors import MissingLibraryError


@pytest.fixture
def coco(tmp_path):
    """Writes a split: an annotation file and its two images, with the given names."""

    def write(annotations, images, names=("a.jpg", "b.jpg"), **annotation):
        for directory in ((tmp_path / annotations).parent, tmp_path / images):
            directory.mkdir(parents=True, exist_ok=True)
        entries = [{"id": number, "file_name": name, "width": 8, "height": 8} for number, name in enumerate(names)]
        content = {"images": entries, "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / annotations).write_text(json.dumps(content))
        for name in names:
            (tmp_path / images / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / images / name).touch()
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("annotations", "images", "train", "val"),
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
def test_the_usual_layouts_are_found(coco, annotations, images, train, val):
    for split in (train, val):
        root = coco(annotations.format(split), images.format(split))
    found = find_coco(root).splits
    assert found == {
        "train": Split(images.format(train), annotations.format(train)),
        "val": Split(images.format(val), annotations.format(val)),
    }


def test_a_test_split_is_found(coco):
    for split in ("train", "valid", "test"):
        root = coco(f"{split}/_annotations.coco.json", split)
    assert find_coco(root).splits["test"] == Split("test", "test/_annotations.coco.json")


def test_the_expected_place_of_a_missing_validation_split_is_named(coco):
    root = coco("annotations/instances_default.json", "images")
    layout = find_coco(root)
    assert layout.splits == {"train": Split("images", "annotations/instances_default.json")}
    assert layout.absent_val == Split("val", "annotations/instances_val.json")


@pytest.mark.parametrize(
    ("images", "names"),
    [("images", ("train/a.jpg", "train/b.jpg")), ("", ("images/a.jpg",)), ("annotations", ("im/a.jpg",))],
    ids=["below", "at the root", "next to the annotations"],
)
def test_images_are_found_by_the_names_in_the_file(coco, images, names):
    root = coco("annotations/train.json", images, names)
    (root / "train").mkdir()
    (root / "images").mkdir(exist_ok=True)
    assert find_coco(root).splits["train"].images == images


def test_an_invalid_annotation_file_is_refused_with_the_place_of_the_error(coco):
    root = coco("train.json", "images")
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text.replace("a.jpg", r"train\images\a.jpg"))
    with raises_user_error("train.json is not valid JSON", "Invalid \\escape: line 1 column"):
        find_coco(root)


NESTED = {
    "categories": [{"id": 9, "name": "nested"}],
    "annotations": [{"segmentation": [[1, 2, 3, 4, 5, 6]]}],
    "images": [{"file_name": "nested.jpg"}],
    "segmentation": [[1, 2, 3, 4, 5, 6]],
}


@pytest.mark.parametrize("key", ["info", "categories", "images", "annotations"])
@pytest.mark.parametrize("first", [True, False])
def test_nested_keys_are_not_taken_for_those_of_the_file(coco, key, first):
    """Keys of the same names in the file's info, or in an entry of a list."""
    root = coco("annotations/train.json", "images", segmentation=[])
    path = root / "annotations/train.json"
    content = json.loads(path.read_text())
    if key == "info":
        content = {"info": {"nested": NESTED}, **content} if first else {**content, "info": {"nested": NESTED}}
    else:
        content[key][0]["nested"] = NESTED
    path.write_text(json.dumps(content))
    assert [category["name"] for category in read_categories(path)] == ["cat"]
    assert not has_masks(path)
    assert find_coco(root).splits["train"].images == "images"


def test_nested_categories_do_not_replace_missing_ones(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"info": NESTED, "images": []}))
    with raises_user_error("a.json has no categories"):
        read_categories(tmp_path / "a.json")


def test_a_file_with_nan_is_read_as_pycocotools_reads_it(coco):
    root = coco("train.json", "images", bbox=[0, 0, float("nan"), 1], segmentation=[[1, 2, 3, 4, 5, 6]])
    assert find_coco(root).splits["train"].images == "images"
    assert has_masks(root / "train.json")
    assert [category["name"] for category in read_categories(root / "train.json")] == ["cat"]


def test_missing_ijson_is_an_error_with_the_command_that_installs_it(coco, monkeypatch):
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(MissingLibraryError, match="ijson; write pip install ijson"):
        read_categories(coco("train.json", "images") / "train.json")


def test_a_changed_file_is_read_again(coco):
    path = coco("train.json", "images") / "train.json"
    assert len(read_categories(path)) == 1
    content = json.loads(path.read_text())
    content["categories"].append({"id": 2, "name": "dog"})
    path.write_text(json.dumps(content))
    assert len(read_categories(path)) == 2


def test_many_images_and_annotations_are_read_in_any_order(coco, tmp_path):
    """More than one chunk of the reader, with the only mask at the end."""
    root = coco("train.json", "images")
    content = json.loads((root / "train.json").read_text())
    content["annotations"] = [{"id": number, "segmentation": []} for number in range(60_000)]
    content["annotations"][-1]["segmentation"] = {"size": [8, 8], "counts": "a"}
    for order in (("images", "annotations", "categories"), ("categories", "annotations", "images")):
        path = tmp_path / f"{order[0]}.json"
        path.write_text(json.dumps({key: content[key] for key in order}))
        assert path.stat().st_size > 1 << 20
        assert has_masks(path)
        assert [category["name"] for category in read_categories(path)] == ["cat"]


def test_an_unknown_layout_gives_an_error_with_the_usual_layouts(tmp_path):
    (tmp_path / "labels.json").write_text("{}")
    with raises_user_error(
        tmp_path, "annotations/instances_train2017.json", "train/_annotations.coco.json", "train.json"
    ):
        find_coco(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 2, 3, 4, 5, 6]], True),
        ({"counts": "a", "size": [8, 8]}, True),
        ([], False),
        (None, False),
        ([[]], False),
        ([[], []], False),
        ({}, False),
        ([1, 2, 3, 4, 5, 6], True),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_masks_are_found(coco, segmentation, expected, indent):
    path = coco("train.json", "images", segmentation=segmentation) / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=indent))
    assert has_masks(path) == expected


# Categories

NAMES = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
KEYPOINTS = [{"id": 1, "name": "person", "keypoints": ["nose", "eye [left]"], "skeleton": [[16, 14], [14, 12]]}]
IMAGES = [
    {"id": 1, "file_name": "categories/1.jpg"},
    {"id": 2, "file_name": "categories"},
    {"id": 3, "file_name": '"categories": [1.jpg'},
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("categories", [NAMES, KEYPOINTS], ids=["names", "keypoints"])
@pytest.mark.parametrize("images", [[], IMAGES[:1], IMAGES[:2], IMAGES], ids=range(4))
def test_categories_are_read_from_any_place_in_the_file(tmp_path, categories, first, indent, images):
    rest = {"images": images, "annotations": [{"id": 1, "bbox": [0, 0, 1, 1], "segmentation": [[1, 2, 3, 4]]}]}
    content = {"categories": categories, **rest} if first else {**rest, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content, indent=indent))
    assert read_categories(tmp_path / "a.json") == categories


def test_long_lists_of_categories_are_read_completely(tmp_path):
    categories = [{"id": number, "name": f"Größe {number}", "synonyms": ["a", "b"]} for number in range(5000)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": categories, "images": []}, ensure_ascii=False), "utf-8")
    assert read_categories(tmp_path / "a.json") == categories


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["has no categories"]),
        ("[]", ["has no categories"]),
        ('{"images": [{"id": 1', ["not valid JSON", "line 1", "may be incomplete"]),
        ('{"categories": [{"id": 1, "na', ["not valid JSON"]),
        ('{"images": []}', ["has no categories"]),
        ('{"categories": []}', ["has no categories"]),
        ('{"categories": [{"id": 1, "name": null}]}', ["has no categories"]),
    ],
)
def test_files_without_categories_are_refused(tmp_path, content, words):
    (tmp_path / "a.json").write_text(content)
    with raises_user_error(tmp_path / "a.json", *words):
        read_categories(tmp_path / "a.json")


def test_categories_agree_with_pycocotools_on_real_annotations(shared):
    path = shared / "data/coco128/annotations/instances_train2017.json"
    assert read_categories(path) == json.loads(path.read_text())["categories"]
    assert len(read_categories(path)) == 80


def test_category_names_that_are_numbers_are_read_as_text(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"categories": [{"id": 1, "name": 7}, {"id": 2, "name": 0.5}]}))
    assert [category["name"] for category in read_categories(tmp_path / "a.json")] == ["7", "0.5"]


PROJECT = {"id": 0, "name": "fruit", "supercategory": "none"}


@pytest.mark.parametrize(
    ("categories", "used", "classes", "ids"),
    [
        ([PROJECT, {"id": 1, "name": "apple", "supercategory": "fruit"}], [1], [], [1]),
        ([PROJECT, {"id": 1, "name": "apple", "supercategory": "fruit"}], [], [], [1]),
        ([PROJECT, {"id": 1, "name": "apple", "supercategory": "fruit"}], [0, 1], [], [0, 1]),
        ([PROJECT, {"id": 1, "name": "apple", "supercategory": "fruit"}], [1], ["fruit", "apple"], [0, 1]),
        ([PROJECT, {"id": 1, "name": "fruit", "supercategory": "fruit"}], [1], ["fruit"], [1]),
        ([PROJECT, {"id": 1, "name": "fruit", "supercategory": "fruit"}], [], [], [1]),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "a"}], [1], [], [1, 2]),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "a"}], [1, 3], [], [1, 2, 3]),
        ([{"id": 1, "name": "person", "supercategory": "person"}], [], [], [1]),
        ([PROJECT], [], [], [0]),
    ],
    ids=[
        "the project of an export",
        "a split without objects",
        "a supercategory with objects",
        "a supercategory in use",
        "a project with the name of its class",
        "the same in a split without objects",
        "an unused name given twice",
        "two used categories of one name",
        "a supercategory of its own",
        "a single category",
    ],
)
def test_unused_categories_without_a_class_of_their_own_are_left_out(tmp_path, categories, used, classes, ids):
    annotations = [{"category_id": category} for category in used]
    (tmp_path / "a.json").write_text(json.dumps({"categories": categories, "annotations": annotations}))
    assert [category["id"] for category in read_categories(tmp_path / "a.json", classes)] == ids
