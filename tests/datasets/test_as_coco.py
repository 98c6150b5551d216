"""Data sets are written as COCO files that pycocotools reads, and described with their counts."""

import json

import pytest
from pycocotools.coco import COCO

from tests.helpers.layouts import (
    CLASSES,
    boxes,
    coco_content,
    expected_boxes,
    shape,
    write_coco,
    write_labelme,
    write_text,
    write_voc,
    write_yolo,
)
from tests.helpers.models import raises_user_error
from xcit_dense.datasets.as_coco import count_content, count_file, prepare_coco
from xcit_dense.datasets.as_coco import write_coco as write_files
from xcit_dense.datasets.formats.recognise import recognise_objects


@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc])
def test_written_files_are_valid_coco(tmp_path, write):
    data = recognise_objects(write(tmp_path / "mine"))
    counts = write_files(data, tmp_path)
    coco = COCO(str(tmp_path / "train.json"))
    assert boxes(coco.dataset) == expected_boxes("abc")
    assert all(annotation["id"] > 0 and annotation["area"] > 0 for annotation in coco.dataset["annotations"])
    assert str(counts["train"]) == "3 images, 3 objects (cat 2, dog 1)"
    assert count_file(tmp_path / "train.json") == counts["train"] == count_content(coco.dataset)


def test_only_the_most_frequent_of_many_classes_are_listed():
    content = coco_content("a")
    content["categories"] = [{"id": number, "name": f"c{number}"} for number in range(1, 31)]
    content["annotations"] = [{"category_id": 30}, {"category_id": 30}, {"category_id": 2}]
    text = str(count_content(content))
    assert "c30 2" in text
    assert "and 10 more classes" in text


def test_classes_can_be_chosen_in_another_order_with_notes(tmp_path):
    data = recognise_objects(write_yolo(tmp_path / "mine"))
    layout, sentences = prepare_coco(data, tmp_path / "made", {}, ["bird", "dog"])
    content = json.loads((data.root / layout.splits["train"].annotations).read_text())
    assert [category["name"] for category in content["categories"]] == ["bird", "dog"]
    assert [annotation["category_id"] for annotation in content["annotations"]] == [2]
    assert any("the data does not have: 2 (train: bird; val: bird)" in sentence for sentence in sentences)
    assert any("objects are left out: 2 (train: cat; val: cat)" in sentence for sentence in sentences)
    with raises_user_error("the classes cat, dog, but the model knows bird"):
        prepare_coco(data, tmp_path / "made", {}, ["bird"])


def test_other_settings_and_other_data_keep_the_files_of_earlier_runs(tmp_path):
    first, second = (recognise_objects(write_yolo(tmp_path / name)) for name in ("one", "two"))
    layouts = [prepare_coco(data, tmp_path / "made", seed)[0] for data in (first, second) for seed in (1, 2)]
    files = {layout.splits["train"].annotations for layout in layouts}
    assert len(files) == 4
    assert all((tmp_path / file).is_file() for file in files)


def test_notes_of_the_reader_are_kept_for_later_runs(tmp_path):
    root = tmp_path / "mine"
    write_labelme(root, [shape("cat", "rectangle", [[1, 1], [9, 9]]), shape("tip", "point", [[1, 1]])])
    notes = [prepare_coco(recognise_objects(root), tmp_path / "made", {})[1] for _ in range(2)]
    assert notes[0] == notes[1]
    assert notes[0][-1] == "  note: shapes of the type point, which are passed over: 1 (a.json)"


def test_faults_leave_no_files(tmp_path):
    root = write_yolo(tmp_path / "mine")
    write_text(root / "labels/train/b.txt", f"{len(CLASSES)} 0.5 0.5 0.1 0.1")
    with raises_user_error("classes other than 0 to 1"):
        prepare_coco(recognise_objects(root), tmp_path / "made", {})
    assert not list((tmp_path / "made").glob("coco*"))
