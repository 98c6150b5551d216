import importlib
import itertools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

coco = pytest.importorskip("pycocotools.coco")
pytest.importorskip("shapely")

import xcit_dense.datasets.shapes  # noqa: E402
from xcit_dense.datasets.panoptic import rgb2id  # noqa: E402
from xcit_dense.datasets.shapes import CLASSES, PALETTE, SEGMENTATION_CLASSES, draw_scene, write_shapes  # noqa: E402
from xcit_dense.datasets.shapes import write as shapes_module  # noqa: E402
from xcit_dense.datasets.shapes.scene import MIN_AREA, MIN_VISIBLE, parts  # noqa: E402
from xcit_dense.errors import UserError  # noqa: E402

TRAIN, VAL, SIZE = 20, 6, 128
SPLITS = [("train2017", "training", TRAIN), ("val2017", "validation", VAL)]
TOOL = Path(__file__).parents[2] / "tools" / "make_shapes.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=TRAIN, val=VAL, size=SIZE)


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng(seed), SIZE) for seed in range(40)]


def files(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def names(directory):
    return sorted(file.name for file in directory.iterdir())


def load(root, split):
    return coco.COCO(root / "annotations" / f"instances_{split}.json")


# What an image shows


def test_equal_generators_give_equal_scenes(scenes):
    again = draw_scene(np.random.default_rng(0), SIZE)
    assert np.array_equal(again.image, scenes[0].image)
    assert again.instances == scenes[0].instances
    assert not np.array_equal(scenes[0].image, scenes[1].image)


def test_the_global_random_generator_is_not_used(scenes):
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    draw_scene(np.random.default_rng(0), SIZE)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("size", [64, 97, 256])
def test_scenes_of_any_size_are_drawn(size):
    scene = draw_scene(np.random.default_rng(3), size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.instances


def test_shapes_stay_recognisable(scenes):
    for scene in scenes:
        assert 2 <= len(scene.instances) <= 6
        for instance in scene.instances:
            assert instance.visible.area >= MIN_AREA
            assert instance.visible.area >= MIN_VISIBLE * instance.outline.area
            assert not any(part.interiors for part in parts(instance.visible))
            left, top, right, bottom = instance.visible.bounds
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE


def test_visible_parts_do_not_overlap(scenes):
    for scene in scenes:
        for a, b in itertools.combinations(scene.instances, 2):
            assert a.visible.intersection(b.visible).area < 1e-6


def test_shapes_cover_each_other_and_leave_the_image(scenes):
    instances = [instance for scene in scenes for instance in scene.instances]
    hidden = [i for i in instances if i.visible.area < 0.99 * i.outline.area]
    overlapping = [
        (a, b)
        for scene in scenes
        for a, b in itertools.combinations(scene.instances, 2)
        if a.outline.intersection(b.outline).area > 1
    ]
    assert 0.1 < len(hidden) / len(instances) < 0.7
    assert len(overlapping) > len(scenes) / 4


def test_triangles_and_stars_point_upwards_within_thirty_degrees(scenes):
    tilts = []
    for instance in itertools.chain.from_iterable(scene.instances for scene in scenes):
        if CLASSES[instance.label] in ("triangle", "star"):
            (x, y), centre = instance.outline.exterior.coords[0], instance.outline.centroid
            tilts.append(np.degrees(np.arctan2(x - centre.x, centre.y - y)))
    assert np.abs(tilts).max() <= 30.01
    assert np.ptp(tilts) > 30


def test_shapes_differ_from_their_background(scenes):
    contrasts = []
    for scene in scenes:
        image = scene.image.astype(float)
        front = scene.instances[-1]
        inside = raster(front.outline, SIZE)
        around = raster(front.outline.buffer(4), SIZE) & ~raster(front.outline.buffer(1), SIZE)
        colour = image[inside].mean(0)
        contrasts.append(np.median(np.linalg.norm(image[around] - colour, axis=1)))
    assert np.min(contrasts) > 40
    assert np.median(contrasts) > 100


def raster(polygon, size):
    from pycocotools import mask

    points = np.asarray(polygon.exterior.coords).ravel().tolist()
    return mask.decode(mask.frPyObjects([points], size, size))[..., 0].astype(bool)


# Files


@pytest.mark.parametrize(("split", "ade", "count"), SPLITS)
def test_both_layouts_are_complete(root, split, ade, count):
    data = load(root, split)
    assert sorted(data.imgs) == list(range(1, count + 1))
    assert {c["id"]: c["name"] for c in data.cats.values()} == dict(enumerate(CLASSES, 1))
    assert {c["supercategory"] for c in data.cats.values()} == {"shape"}
    assert set(data.dataset) == {"info", "licenses", "images", "annotations", "categories"}
    expected = sorted(image["file_name"] for image in data.imgs.values())
    assert names(root / split) == expected
    assert names(root / "images" / ade) == expected
    labels = [name.replace(".jpg", ".png") for name in expected]
    assert names(root / "annotations" / ade) == labels
    for image in data.imgs.values():
        file = root / split / image["file_name"]
        assert file.read_bytes() == (root / "images" / ade / image["file_name"]).read_bytes()
        with Image.open(file) as image_file:
            assert image_file.mode == "RGB"
            assert image_file.size == (image["width"], image["height"]) == (SIZE, SIZE)


@pytest.mark.parametrize(("split", "ade"), [s[:2] for s in SPLITS])
def test_instances_and_label_map_agree_to_the_pixel(root, split, ade):
    data = load(root, split)
    for image in data.imgs.values():
        with Image.open(root / "annotations" / ade / f"{image['id']:012d}.png") as png:
            assert png.mode == "L"
            label_map = np.asarray(png)
        expected = np.ones((SIZE, SIZE), np.uint8)
        coverage = np.zeros((SIZE, SIZE), int)
        for annotation in data.loadAnns(data.getAnnIds(image["id"])):
            mask = data.annToMask(annotation).astype(bool)
            expected[mask] = 1 + annotation["category_id"]
            coverage += mask
        assert np.array_equal(label_map, expected)
        # Two neighbours may both contain the pixels of their common edge, but no other pixel.
        assert (coverage > 1).mean() < 0.002


@pytest.mark.parametrize(("split", "ade", "count"), SPLITS)
def test_panoptic_segments_and_label_map_agree_to_the_pixel(root, split, ade, count):
    content = json.loads((root / "annotations" / f"panoptic_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert {names[each["id"]] for each in content["categories"] if not each["isthing"]} == {SEGMENTATION_CLASSES[0]}
    assert len(content["annotations"]) == count
    for each in content["annotations"]:
        ids = rgb2id(np.asarray(Image.open(root / "annotations" / f"panoptic_{split}" / each["file_name"])))
        label_map = np.asarray(Image.open(root / "annotations" / ade / each["file_name"]))
        assert set(np.unique(ids)) == {segment["id"] for segment in each["segments_info"]}
        for segment in each["segments_info"]:
            mask = ids == segment["id"]
            (label,) = np.unique(label_map[mask])
            assert SEGMENTATION_CLASSES[label - 1] == names[segment["category_id"]]
            assert segment["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            assert segment["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize("split", [s[0] for s in SPLITS])
def test_boxes_and_areas_fit_the_masks(root, split):
    data = load(root, split)
    for annotation in data.anns.values():
        mask = data.annToMask(annotation)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (columns[0], rows[0])
        assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0
        polygon_area = sum(map(shoelace, annotation["segmentation"]))
        assert annotation["area"] == pytest.approx(polygon_area, rel=0.1, abs=8)


def shoelace(flat):
    x, y = np.reshape(flat, (-1, 2)).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_every_class_occurs(root):
    for split, *_ in SPLITS:
        categories = {a["category_id"] for a in load(root, split).anns.values()}
        assert categories == {1, 2, 3, 4}


def test_each_class_has_a_colour_of_its_own():
    assert SEGMENTATION_CLASSES == ("background", "circle", "square", "triangle", "star")
    assert len(set(PALETTE)) == len(SEGMENTATION_CLASSES)
    assert all(0 <= channel <= 255 for colour in PALETTE for channel in colour)


# Repeated calls


def test_the_same_parameters_give_the_same_bytes(root, tmp_path):
    again = write_shapes(tmp_path / "again", train=TRAIN, val=VAL, size=SIZE)
    assert files(again) == files(root)


def test_a_smaller_data_set_is_the_beginning_of_a_larger_one(root, tmp_path):
    small = write_shapes(tmp_path / "small", train=4, val=2, size=SIZE)
    large = files(root)
    for name, content in files(small).items():
        if not name.endswith(".json"):
            assert content == large[name], name
    few, many = load(small, "train2017"), load(root, "train2017")
    assert few.dataset["annotations"] == many.dataset["annotations"][: len(few.anns)]


def test_another_seed_gives_other_images(root, tmp_path):
    other = write_shapes(tmp_path / "other", train=4, val=2, size=SIZE, seed=1)
    for split in ("train2017", "val2017"):
        name = "000000000001.jpg"
        assert (other / split / name).read_bytes() != (root / split / name).read_bytes()


def test_the_splits_have_no_common_image(root):
    train, val = ({file.read_bytes() for file in (root / split).iterdir()} for split, *_ in SPLITS)
    assert len(train) == TRAIN
    assert len(val) == VAL
    assert not train & val


def test_a_data_set_without_validation_images_is_written(tmp_path):
    root = write_shapes(tmp_path / "shapes", train=1, val=0, size=64)
    assert load(root, "val2017").dataset["annotations"] == []


@pytest.mark.parametrize(
    ("parameter", "value", "least"),
    [("train", 0, 1), ("train", -3, 1), ("val", -1, 0), ("size", 63, 64), ("seed", -1, 0)],
)
def test_parameters_below_their_minimum_are_refused(tmp_path, parameter, value, least):
    with pytest.raises(UserError, match=f"^{parameter} is {value}; write {least} or more"):
        write_shapes(tmp_path / "shapes", **{parameter: value})
    assert not list(tmp_path.iterdir())


def test_scenes_below_the_minimum_size_are_refused():
    with pytest.raises(ValueError, match="size is 10"):
        draw_scene(np.random.default_rng(0), 10)


def test_an_existing_equal_data_set_is_not_written_again(root, caplog):
    before = root.stat().st_mtime_ns
    with caplog.at_level("INFO"):
        assert write_shapes(root, train=TRAIN, val=VAL, size=SIZE) == root
    assert "already contains this data set" in caplog.text
    assert root.stat().st_mtime_ns == before


def test_another_data_set_is_not_overwritten(root):
    before = files(root)
    with pytest.raises(UserError, match=r"other parameters .* remove it or name"):
        write_shapes(root, train=TRAIN + 1, val=VAL, size=SIZE)
    assert files(root) == before


def test_a_file_or_another_directory_is_not_overwritten(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "shapes.json").write_text("not JSON")
    for name in ("file", "foreign"):
        with pytest.raises(UserError):
            write_shapes(tmp_path / name, train=1, val=0, size=64)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_is_filled_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "some/where/new"):
        root = write_shapes(tmp_path / name, train=1, val=0, size=64)
        assert root == tmp_path / name
        assert (root / "shapes.json").is_file()
    assert names(tmp_path) == ["empty", "some"]
    assert names(tmp_path / "some" / "where") == ["new"]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_attempt_leaves_no_files(tmp_path, monkeypatch, failure):
    drawn = []

    def fails_at_the_third(rng, size):
        drawn.append(size)
        if len(drawn) == 3:
            raise failure
        return draw_scene(rng, size)

    monkeypatch.setattr(shapes_module, "draw_scene", fails_at_the_third)
    with pytest.raises(type(failure)):
        write_shapes(tmp_path / "shapes", train=5, val=1, size=64)
    assert len(drawn) == 3
    assert not list(tmp_path.iterdir())


def test_files_are_copied_if_the_file_system_has_no_hard_links(root, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    copied = write_shapes(tmp_path / "shapes", train=2, val=1, size=SIZE)
    image = copied / "images" / "training" / "000000000001.jpg"
    assert image.stat().st_nlink == 1
    assert image.read_bytes() == (root / "train2017" / image.name).read_bytes()


# Users


def test_the_tool_works_from_any_directory(root, tmp_path):
    arguments = ["here", "--train", "2", "--val", "1", "--size", str(SIZE)]
    result = subprocess.run(
        [sys.executable, TOOL, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOOL.parents[1])},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert f"Wrote 2 training and 1 validation images to {tmp_path / 'here'}." in result.stderr
    assert "image/s" not in result.stderr  # a progress bar is for terminals
    name = "train2017/000000000002.jpg"
    assert (tmp_path / "here" / name).read_bytes() == (root / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "remove it or name another directory"), (["--size", "8"], "error: size is 8; write 64 or more")],
)
def test_the_tool_reports_errors_in_one_sentence(root, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(root), *arguments])
    with pytest.raises(SystemExit, match=message):
        runpy.run_path(str(TOOL), run_name="__main__")


@pytest.mark.parametrize("library", ["shapely", "pycocotools"])
def test_a_missing_library_is_named(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf'{library} is missing; write pip install "xcit-dense\[mm'):
        importlib.reload(xcit_dense.datasets.shapes)


def test_mmdetection_reads_the_data_set(root):
    pytest.importorskip("mmdet", exc_type=ImportError)
    pytest.importorskip("xcit_dense.mm", exc_type=ImportError)
    from mmdet.datasets import CocoDataset

    data = CocoDataset(
        data_root=str(root),
        ann_file="annotations/instances_train2017.json",
        data_prefix={"img": "train2017/"},
        metainfo={"classes": CLASSES, "palette": PALETTE[1:]},
        filter_cfg={"filter_empty_gt": True, "min_size": 32},
        pipeline=[],
    )
    assert len(data) == TRAIN
    instances = [i for k in range(TRAIN) for i in data.get_data_info(k)["instances"]]
    assert len(instances) == len(load(root, "train2017").anns)
    assert {i["bbox_label"] for i in instances} == {0, 1, 2, 3}


def test_mmsegmentation_reads_the_data_set(root):
    pytest.importorskip("mmseg", exc_type=ImportError)
    pytest.importorskip("xcit_dense.mm", exc_type=ImportError)
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    data = BaseSegDataset(
        data_root=str(root),
        data_prefix={"img_path": "images/validation", "seg_map_path": "annotations/validation"},
        img_suffix=".jpg",
        seg_map_suffix=".png",
        reduce_zero_label=True,
        metainfo={"classes": SEGMENTATION_CLASSES, "palette": PALETTE},
        # Classes, because the meaning of a name depends on the default scope, which another test may have set.
        pipeline=[{"type": LoadImageFromFile}, {"type": LoadAnnotations}],
    )
    assert len(data) == VAL
    labels = np.unique([data[k]["gt_seg_map"] for k in range(VAL)])
    assert labels.tolist() == [0, 1, 2, 3, 4]
