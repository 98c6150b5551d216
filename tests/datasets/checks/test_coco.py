"""The check of COCO files finds the faults, with their numbers and places."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from tests.helpers.reports import expect, found
from xcit_dense.datasets.checks import check_coco

CLASSES = ["cat", "dog"]


@pytest.fixture
def coco(tmp_path):
    """Makes three images with two objects each and without faults, changes the data, and checks it."""

    def check(change=lambda data: None, **options):
        (tmp_path / "images").mkdir()
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 30} for n in range(3)],
            "categories": [{"id": 5, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": [
                {
                    "id": n,
                    "image_id": n // 2,
                    "category_id": (5, 3)[n % 2],
                    "bbox": [2, 3, 20, 10],
                    "area": 200,
                    "segmentation": [[2, 3, 22, 3, 22, 13]],
                }
                for n in range(6)
            ],
        }
        for image in content["images"]:
            Image.new("RGB", (40, 30)).save(tmp_path / "images" / image["file_name"])
        data = SimpleNamespace(**content, images_directory=tmp_path / "images")
        change(data)
        (tmp_path / "a.json").write_text(json.dumps({name: getattr(data, name) for name in content}))
        return check_coco(tmp_path / "a.json", tmp_path / "images", options.pop("classes", CLASSES), **options)

    return check


def test_annotations_without_faults_pass(coco):
    report = coco()
    assert found(report) == {}
    assert report.errors == 0
    assert str(report).endswith("a.json: 3 images, 6 objects, 2 classes")


def change(kind, *numbers, **values):
    """A change of some entries of a list. A value of None removes the key."""

    def apply(data):
        for number in numbers:
            entry = getattr(data, kind)[number]
            for name, value in values.items():
                if value is None:
                    del entry[name]
                else:
                    entry[name] = value

    return apply


def remove(*numbers):
    return lambda data: [(data.images_directory / f"{number}.jpg").unlink() for number in numbers]


@pytest.mark.parametrize(
    ("fault", "what", "count", "places"),
    [
        (remove(0, 2), "missing images", 2, ["0.jpg", "2.jpg"]),
        (lambda data: (data.images_directory / "1.jpg").write_bytes(b"text"), "unreadable images", 1, ["1.jpg"]),
        (
            lambda data: Image.new("RGB", (80, 60)).save(data.images_directory / "1.jpg"),
            "images of another size than their entry",
            1,
            ["1.jpg: 80 x 60, not 40 x 30"],
        ),
        (change("images", 1, width=None), "images without a valid id, file_name", 1, ["entry 2"]),
        (change("images", 1, height="30"), "images without a valid id, file_name", 1, ["entry 2"]),
        (change("images", 1, id=0), "image ids given twice", 1, ["0: 0.jpg, 1.jpg"]),
        (change("categories", 1, id=5), "category ids given twice", 1, ["5"]),
        (change("categories", 1, name="cat"), "category names given twice", 1, ["cat"]),
        (change("categories", 1, id=None), "categories without a valid id or name", 1, ["entry 2"]),
        (change("annotations", 1, 2, area=None), "annotations without a valid id", 2, ["annotation 1", "annotation 2"]),
        (change("annotations", 1, id=None), "annotations without a valid id", 1, ["entry 2 of the list"]),
        (change("annotations", 1, 4, id=0), "annotation ids given twice", 2, ["0"]),
        (change("annotations", 3, image_id=77), "annotations of unknown images", 1, ["annotation 3: image_id 77"]),
        (
            change("annotations", 3, 4, category_id=9),
            "annotations of unknown categories",
            2,
            ["annotation 3: category_id 9", "annotation 4"],
        ),
        (
            change("annotations", 3, bbox=[1, 2, 3]),
            "boxes that are not four finite numbers",
            1,
            ["annotation 3 in 1.jpg: [1, 2, 3]"],
        ),
        (change("annotations", 3, bbox=[1, 2, float("nan"), 3]), "not four finite numbers", 1, ["3 in 1.jpg"]),
        (
            change("annotations", 3, bbox=[40, 2, 5, 5]),
            "boxes outside their image",
            1,
            ["annotation 3 in 1.jpg: [40, 2, 5, 5] in 40 x 30"],
        ),
        (change("annotations", 0, 3, bbox=[2, -9, 5, 5]), "boxes outside their image", 2, ["0 in 0.jpg", "3 in"]),
        (
            change("annotations", 3, bbox=[30, 2, 25, 5]),  # more than a tenth of the boxes
            "boxes that reach beyond their image (are they",
            1,
            ["annotation 3 in 1.jpg: [30, 2, 25, 5] in 40 x 30"],
        ),
        (change("annotations", 3, bbox=None), "boxes that are not four finite numbers", 1, ["annotation 3 in 1.jpg"]),
        (change("annotations", 3, segmentation=None), "objects without a mask", 1, ["annotation 3 in 1.jpg"]),
        (change("annotations", 3, segmentation=[2, 3, 9, 3, 9, 9]), "neither polygons", 1, ["annotation 3 in 1.jpg"]),
        (
            change("annotations", 3, segmentation={"counts": [1200], "size": [40, 30]}),
            "masks of another size than their image",
            1,
            ["annotation 3 in 1.jpg: [40, 30], not [30, 40]"],
        ),
        (change("annotations", *range(6), iscrowd=1), "objects all have iscrowd=1", 1, ["a.json"]),
        (change("annotations", 3, iscrowd=2), "iscrowd is neither 0 nor 1", 1, ["annotation 3 in 1.jpg: 2"]),
        (change("annotations", 3, segmentation=[[]]), "objects without a mask", 1, ["annotation 3 in 1.jpg"]),
        (
            change("annotations", 3, segmentation=[[2, 3, 9, 3, 9, float("nan")]]),
            "polygons that are not finite numbers",
            1,
            ["annotation 3 in 1.jpg"],
        ),
        (
            change("annotations", 3, segmentation={"counts": [1000], "size": [30, 40]}),
            "run-length codes whose sum is not",
            1,
            ["annotation 3 in 1.jpg"],
        ),
        (lambda data: [data.images.clear(), data.annotations.clear()], "without any usable object", 1, ["a.json"]),
        (lambda data: data.annotations.clear(), "without any usable object", 1, ["a.json"]),
    ],
)
def test_errors_are_reported_with_count_and_places(coco, fault, what, count, places):
    report = coco(fault)
    expect(report, True, what, count, *places)
    follow = {
        "annotations of unknown images",
        "annotations of unknown categories",
    }  # of the entries that the fault makes invalid
    assert report.errors == 1 + len(follow & report.faults.keys() - {what})


@pytest.mark.parametrize(
    ("fault", "options", "what", "count", "places"),
    [
        (
            change("annotations", 3, 4, bbox=[2, 3, 20, 0]),
            {},
            "boxes less than a pixel wide or high, or of area 0, which training leaves out",
            2,
            ["annotation 3 in 1.jpg: [2, 3, 20, 0]", "4 in 2.jpg"],
        ),
        (change("annotations", 1, 3, 5, category_id=5), {}, "classes without objects", 1, ["dog"]),
        (change("annotations", 2, 3, image_id=0), {}, "images without objects", 1, ["1.jpg"]),
        (
            change("annotations", 2, 3, image_id=0),
            {"leaves_out_empty": True},
            "images without objects, which training leaves out",
            1,
            ["1.jpg"],
        ),
        (change("annotations", 3, segmentation=[[1, 2, 3, 4]]), {}, "fewer than three points", 1, ["3 in 1.jpg"]),
        (change("annotations", 0, 3, iscrowd=1), {}, "objects with iscrowd=1", 2, ["annotation 0 in 0.jpg"]),
        (change("annotations", 0, 3, ignore=1), {}, "objects with ignore=1", 2, ["annotation 0 in 0.jpg"]),
        (
            lambda data: [
                change("images", 1, height=50)(data),
                Image.new("RGB", (40, 50)).save(data.images_directory / "1.jpg"),
            ],
            {"min_size": 32},
            "images with a side below 32, which training leaves out",
            2,
            ["0.jpg", "2.jpg"],
        ),
    ],
)
def test_warnings_are_reported_with_count_and_places(coco, fault, options, what, count, places):
    report = coco(fault, **options)
    expect(report, False, what, count, *places)
    assert report.errors == 0


def test_few_boxes_that_reach_beyond_their_image_are_a_warning(coco):
    def fault(data):
        data.annotations += [{**data.annotations[0], "id": 10 + number} for number in range(10)]
        data.annotations[3]["bbox"] = [30, 2, 25, 5]

    report = coco(fault)
    expect(report, False, "boxes that reach beyond their image", 1, "annotation 3 in 1.jpg")
    assert report.errors == 0


def test_boxes_rounded_to_the_next_pixel_are_accepted(coco):
    assert found(coco(change("annotations", 0, 1, bbox=[-0.6, 0, 41.2, 30.8]))) == {}


def test_a_file_without_objects_is_accepted_if_no_objects_are_needed(coco):
    report = coco(lambda data: data.annotations.clear(), needs_objects=False)
    assert report.errors == 0


def test_it_is_an_error_if_training_leaves_out_every_image(coco):
    expect(coco(min_size=32), True, "training leaves out every image", 1, "a.json")


def test_a_sample_of_many_images_is_opened_and_every_missing_image_is_found(coco):
    def fault(data):
        data.images_directory.joinpath("1.jpg").write_bytes(b"not opened")
        change("images", 2, file_name="gone.jpg")(data)

    report = coco(fault, limit=2)
    assert found(report) == {"missing images": (True, 1, "gone.jpg")}
    assert "3 images (2 of them opened)" in report.summary


def test_damaged_exif_data_is_accepted(coco):
    def fault(data):
        Image.new("RGB", (40, 30)).save(data.images_directory / "1.jpg", exif=b"Exif\0\0II*\0\xff\xff")

    assert found(coco(fault)) == {}


@pytest.mark.parametrize("kind", ["images", "categories", "annotations"])
def test_any_value_in_an_entry_is_reported_without_a_traceback(coco, tmp_path, kind):
    coco()
    content = json.loads((tmp_path / "a.json").read_text())
    values = (None, 0, -1, 1e400, "x", "\0", "", [], {}, [[]], [None], [1, 2, 3, 4, 5, 6], [[1, "a"] * 3], {"size": 1})
    for key, value in ((key, value) for key in content[kind][1] for value in values):
        entries = [*content[kind][:1], {**content[kind][1], key: value}, *content[kind][2:]]
        (tmp_path / "a.json").write_text(json.dumps({**content, kind: entries}))
        report = check_coco(tmp_path / "a.json", tmp_path / "images", CLASSES)
        assert "3 images" in str(report) or report.errors
    (tmp_path / "a.json").write_text(json.dumps({**content, kind: [None, "text", 7, []]}))
    assert check_coco(tmp_path / "a.json", tmp_path / "images", CLASSES).errors


def test_missing_masks_are_accepted_if_training_needs_no_masks(coco):
    assert found(coco(change("annotations", 0, 1, 2, segmentation=None), masks=False)) == {}


def test_objects_of_classes_not_in_use_are_not_checked(coco):
    report = coco(change("annotations", 1, 3, bbox=[90, 90, 5, 5]), classes=["cat"])
    assert found(report) == {}
    assert "3 objects, 1 class" in report.summary


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_with_an_exif_orientation_are_measured_as_training_reads_them(coco, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6

    def turn(data):
        Image.new("RGB", (30, 40)).save(data.images_directory / f"1.{suffix}", exif=exif)
        change("images", 1, file_name=f"1.{suffix}")(data)
        Image.new("RGB", (40, 30)).save(data.images_directory / f"2.{suffix}", exif=exif)
        change("images", 2, file_name=f"2.{suffix}")(data)

    # The entry of the first image has the upright size, and the entry of the second image has the stored size.
    report = coco(turn)
    expect(report, False, "images that training does not turn by their EXIF orientation", 1, f"2.{suffix}")
    assert len(report.faults) == 1


@pytest.mark.parametrize("values", [np.zeros((30, 40), np.int32), np.zeros((30, 40), np.float32)])
def test_images_of_32_bits_are_an_error_with_the_true_reason(coco, values):
    def fault(data):
        Image.fromarray(values).save(data.images_directory / "1.tif")
        change("images", 1, file_name="1.tif")(data)

    report = coco(fault)
    expect(report, True, "unreadable images", 1, "1.tif: the TIFF file has")
    assert "of 32 bits" in report.faults["unreadable images"].places[0]


def test_all_faults_are_reported_with_errors_first(coco):
    def fault(data):
        change("annotations", 0, 1, 2, 3, 4, 5, category_id=9)(data)
        remove(1)(data)

    lines = str(coco(fault)).splitlines()
    assert lines[1] == (
        "  error    annotations of unknown categories: 6 "
        "(annotation 0: category_id 9; annotation 1: category_id 9; annotation 2: category_id 9; ...)"
    )
    assert "  error    missing images: 1 (1.jpg)" in lines
    assert "  warning  classes without objects: 2 (cat; dog)" in lines
    kinds = [line.split()[0] for line in lines[1:]]
    assert kinds == sorted(kinds)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "\ufeff{}", '{"images": [], "annotations": {}, "categories": []}', '{"images": []}']
)
def test_files_in_another_format_are_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with raises_user_error(tmp_path / "a.json"):
        check_coco(tmp_path / "a.json", tmp_path, CLASSES)
