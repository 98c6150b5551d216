"""The check of label maps finds the faults, with their numbers and places."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.reports import expect, found
from xcit_dense.datasets.checks import check_labels, check_pairs
from xcit_dense.datasets.formats.labels import Pair
from xcit_dense.datasets.formats.splits import Split

CLASSES = ["cat", "dog"]
SPLIT = Split("images", "labels", ".jpg", ".png")


@pytest.fixture
def labels(tmp_path):
    """Makes three images with label maps of two classes and without faults, changes the data, and checks it."""

    def check(change=lambda root: None, **options):
        for name in ("images", "labels"):
            (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 6)).save(tmp_path / f"images/{number}.jpg")
            write(tmp_path, number, [[0, 1, 255, 1] * 2] * 6)
        change(tmp_path)
        return check_labels(tmp_path, SPLIT, options.pop("classes", CLASSES), **options)

    return check


def write(root, number, values, mode=np.uint8):
    Image.fromarray(np.asarray(values, mode)).save(root / f"labels/{number}.png")


def test_labels_without_faults_pass(labels):
    report = labels()
    assert found(report) == {}
    assert str(report).endswith("images: 3 images, 2 classes (cat 33.3 %, dog 66.7 %)")


@pytest.mark.parametrize(
    ("fault", "what", "count", "places"),
    [
        (
            lambda root: [(root / f"labels/{number}.png").unlink() for number in (0, 2)],
            "images without a label map",
            2,
            ["0.png", "2.png"],
        ),
        (lambda root: (root / "images/1.jpg").write_bytes(b""), "unreadable images", 1, ["1.jpg"]),
        (lambda root: (root / "labels/1.png").write_bytes(b"text"), "unreadable label maps", 1, ["1.png"]),
        (
            lambda root: (root / "labels/1.png").write_bytes((root / "labels/1.png").read_bytes()[:50]),
            "unreadable label maps",
            1,
            ["1.png"],
        ),
        (
            lambda root: write(root, 1, [[0, 1]]),
            "label maps of another size than their image",
            1,
            ["1.png: 2 x 1, not 8 x 6"],
        ),
        (
            lambda root: Image.new("RGB", (8, 6)).save(root / "labels/1.png"),
            "label maps that have colours",
            1,
            ["1.png: RGB"],
        ),
        (
            lambda root: [write(root, number, [[0, 2, 9, 254] * 2] * 6) for number in (1, 2)],
            "values other than 0 to 1 and 255",
            2,
            ["1.png: 2, 9, 254", "2.png"],
        ),
        (
            lambda root: write(root, 1, [[0, 300] * 4] * 6, np.uint16),
            "values other than 0 to 1 and 255",
            1,
            ["1.png: 300"],
        ),
    ],
)
def test_errors_of_labels_are_reported_with_count_and_places(labels, fault, what, count, places):
    report = labels(fault)
    expect(report, True, what, count, *places)
    assert report.errors == 1


@pytest.mark.parametrize(
    ("fault", "classes", "what", "places"),
    [
        (lambda root: (root / "images/1.jpg").unlink(), CLASSES, "label maps without an image", ["1.png"]),
        (lambda root: None, [*CLASSES, "cow"], "classes without pixels", ["cow"]),
        (lambda root: write(root, 1, [[255] * 8] * 6), CLASSES, "images without any labelled pixel", ["1.png"]),
    ],
)
def test_warnings_of_labels_are_reported_with_count_and_places(labels, fault, classes, what, places):
    report = labels(fault, classes=classes)
    expect(report, False, what, 1, *places)
    assert report.errors == 0


def test_the_classes_begin_with_one_if_zero_is_ignored(labels):
    def fault(root):
        for number, values in enumerate(([0, 1], [1, 2], [0, 0])):
            write(root, number, [values * 4] * 6)

    report = labels(fault, ignore_zero=True)
    assert report.errors == 0
    assert found(report) == {"images without any labelled pixel": (False, 1, "2.png")}


@pytest.mark.parametrize(("classes", "is_error"), [(CLASSES, True), ([*CLASSES, "cow"], False)])
def test_values_that_begin_with_one_are_reported(labels, classes, is_error):
    report = labels(lambda root: [write(root, number, [[1, 2] * 4] * 6) for number in range(3)], classes=classes)
    expect(report, is_error, "labels without the value 0 (if values begin with 1, write --ignore-zero)", 1, "labels")


def test_labels_with_one_bit_a_pixel_are_accepted(labels):
    report = labels(lambda root: Image.fromarray(np.eye(6, 8, dtype=bool)).save(root / "labels/1.png"))
    assert found(report) == {}


def test_a_sample_of_many_labels_is_opened_and_every_missing_label_is_found(labels):
    def fault(root):
        write(root, 0, [[7, 0, 1, 255] * 2] * 6)
        write(root, 1, [[8] * 8] * 6)  # not opened
        (root / "labels/2.png").unlink()

    report = labels(fault, limit=2)
    expect(report, True, "values other than", 1, "0.png: 7")
    expect(report, True, "without a label map", 1, "2.png")
    assert "3 images (2 of them opened)" in report.summary


def test_labels_without_any_labelled_pixel_are_an_error(labels):
    report = labels(lambda root: [write(root, number, [[255] * 8] * 6) for number in range(3)])
    expect(report, True, "directories without any labelled pixel", 1, "labels")
    assert report.errors == 1


def test_an_empty_directory_is_an_error(labels):
    expect(labels(lambda root: [path.unlink() for path in root.rglob("*.*")]), True, "without images", 1, "*.jpg")


def test_masks_of_0_and_255_are_an_error(labels):
    report = labels(lambda root: [write(root, number, [[0, 255] * 4] * 6) for number in range(3)])
    expect(report, True, "contain only 0 and 255", 1, "labels")
    expect(report, False, "classes without pixels", 1, "dog")


def test_pairs_have_the_report_of_directories(labels, tmp_path):
    def fault(root):
        write(root, 0, [[0, 1]])
        (root / "labels/1.png").unlink()

    directories = labels(fault)
    pairs = [Pair(f"images/{number}.jpg", f"labels/{number}.png") for number in range(3)]
    report = check_pairs(tmp_path, tmp_path, pairs, CLASSES)
    assert report.summary == directories.summary
    assert [(what, fault.count) for what, fault in report.faults.items()] == [
        (what, fault.count) for what, fault in directories.faults.items()
    ]
    expect(report, True, "label maps of another size than their image", 1, "labels/0.png: 2 x 1, not 8 x 6")
    expect(report, True, "images without a label map", 1, "labels/1.png")


def test_an_image_is_measured_as_training_reads_it(labels):
    exif = Image.Exif()
    exif[0x0112] = 6

    def turn(root):
        Image.new("RGB", (6, 8)).save(root / "images/1.jpg", exif=exif)
        Image.new("RGB", (8, 6)).save(root / "images/2.jpg", exif=exif)

    # The first label map has the upright size, and the second label map has the stored size.
    report = labels(turn)
    expect(report, False, "images that training does not turn by their EXIF orientation", 1, "2.jpg")
    assert len(report.faults) == 1
