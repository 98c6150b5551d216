"""Detections in COCO's format: pycocotools reads them, with the right names and numbers."""

import contextlib
import json

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
from pycocotools.coco import COCO

from tests.helpers.models import raises_user_error
from xcit_dense.media.results import make_categories, make_results, read_records, write_record, write_results
from xcit_dense.structures import Instances

CLASSES = ("circle", "square")


def objects(count, masks=True):
    """Makes random objects in an image of 30 x 20 pixels."""
    random = np.random.default_rng(count)
    corners = random.uniform(0, 10, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 9, (count, 2))], axis=1).astype(np.float32)
    scores = random.uniform(0, 1, count).astype(np.float32)
    return Instances(
        boxes, random.integers(0, 2, count), scores, random.integers(0, 2, (count, 20, 30)) > 0 if masks else None
    )


@pytest.fixture
def write(tmp_path):
    """Writes parts. Each part lists images with their objects, or with the reason for a failure."""
    categories = make_categories(CLASSES)

    def run(*parts):
        paths = []
        for number, images in enumerate(parts):
            paths.append(tmp_path / f"{number}.jsonl")
            with paths[-1].open("w") as part:
                for name, content in images:
                    if isinstance(content, str):
                        write_record(part, {"failed": name, "why": content})
                    else:
                        image = {"file_name": name, "height": 20, "width": 30}
                        write_record(part, {"image": image, "results": make_results(content, categories)})
        count = write_results(tmp_path, paths, categories)
        assert not [path for path in tmp_path.iterdir() if "part" in path.name]
        return count, paths

    return run


def load(directory):
    with contextlib.redirect_stdout(None):
        images = COCO(str(directory / "images.json"))
        return images, images.loadRes(str(directory / "results.json"))


@pytest.mark.parametrize("masks", [True, False])
def test_pycocotools_reads_what_was_found(write, tmp_path, masks):
    first, second = objects(3, masks), objects(5, masks)
    parts = [[("a.jpg", first), ("b.jpg", "not an image")], [("c/d.jpg", second)]]
    assert write(*parts)[0] == 8
    images, results = load(tmp_path)
    assert [image["file_name"] for image in images.dataset["images"]] == ["a.jpg", "c/d.jpg"]
    assert images.loadCats(images.getCatIds()) == [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
    for image, expected in zip((1, 2), (first, second)):
        got = results.loadAnns(results.getAnnIds(image))
        assert len(got) == len(expected.boxes)
        for index, one in enumerate(got):
            x, y, width, height = one["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(expected.boxes[index])
            assert one["score"] == pytest.approx(expected.scores[index])
            assert one["category_id"] == expected.labels[index] + 1
            if masks:
                assert np.array_equal(results.annToMask(one), expected.masks[index])


def test_images_without_objects_are_listed(write, tmp_path):
    assert write([("a.jpg", objects(0)), ("b.jpg", objects(1))])[0] == 1
    images, results = load(tmp_path)
    assert images.getImgIds() == [1, 2]
    assert results.getAnnIds(1) == []


def test_results_of_failed_images_only_are_valid_and_empty(write, tmp_path):
    assert write([("a.jpg", "gone")])[0] == 0
    assert json.loads((tmp_path / "results.json").read_text()) == []
    assert json.loads((tmp_path / "images.json").read_text())["images"] == []


def test_a_written_record_is_readable_before_the_part_is_closed(tmp_path):
    with (tmp_path / "0.jsonl").open("w") as part:
        write_record(part, {"failed": "ä.jpg", "why": "x"})
        assert list(read_records([tmp_path / "0.jsonl"])) == [{"failed": "ä.jpg", "why": "x"}]


def test_an_unfinished_record_is_skipped(tmp_path):
    (tmp_path / "0.jsonl").write_text('{"failed": "a.jpg", "why": "x"}\n{"image": {"file_na')
    assert list(read_records([tmp_path / "0.jsonl"])) == [{"failed": "a.jpg", "why": "x"}]


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["boxes", "scores"])
def test_nan_and_infinity_are_refused(number, place):
    found = objects(3)
    getattr(found, place)[1] = number
    with raises_user_error("not finite"):
        make_results(found, make_categories(CLASSES))


def test_cocos_classes_get_cocos_ids(shared):
    with contextlib.redirect_stdout(None):
        coco = COCO(str(shared / "data/coco128/annotations/instances_val2017.json"))
    official = {category["name"]: category["id"] for category in coco.loadCats(coco.getCatIds())}
    names = [name for name, _ in sorted(official.items(), key=lambda item: item[1])]
    assert len(names) == 80
    assert {category["name"]: category["id"] for category in make_categories(names)} == official
    assert [category["id"] for category in make_categories(names[:79])] == list(range(1, 80))
