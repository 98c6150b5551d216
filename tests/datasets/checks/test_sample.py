"""The check of an image finds the size that training sees, and what training would lose."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.helpers.rasters import noise, write_tiff
from xcit_dense.datasets.checks.report import Report
from xcit_dense.datasets.checks.sample import read_size


def check(path, bands=()):
    """The size of an image, and the kinds of errors and warnings of its check, each with its first place."""
    report = Report(path)
    size = read_size(report, path, path.name, bands=bands)
    return size, {(fault.is_error, what): fault.places[0] for what, fault in report.faults.items()}


@pytest.mark.parametrize(("count", "dtype"), [(5, "uint16"), (4, "uint8"), (3, "uint8"), (3, "float32")])
def test_bands_that_training_would_lose_are_an_error(tmp_path, count, dtype):
    write_tiff(tmp_path / "a.tif", noise(20, 30, count, dtype, top=250))
    _, faults = check(tmp_path / "a.tif")
    assert faults == {
        (
            True,
            "images of other bands than red, green and blue (--bands reads them)",
        ): f"a.tif: {count} bands of {dtype}"
    }


@pytest.mark.parametrize("count", [1, 3])
def test_16_bits_of_an_ordinary_image_are_a_warning(tmp_path, count):
    cv2.imwrite(str(tmp_path / "a.png"), noise(20, 30, count))
    size, faults = check(tmp_path / "a.png")
    assert size == (30, 20)
    assert [is_error for is_error, _ in faults] == [False]
    assert f"a.png: {count} band" in next(iter(faults.values()))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_ordinary_image_has_no_fault(tmp_path, mode, suffix):
    Image.new(mode, (30, 20)).save(tmp_path / f"a.{suffix}")
    assert check(tmp_path / f"a.{suffix}") == ((30, 20), {})


def test_an_image_with_the_named_bands_has_no_fault(tmp_path):
    write_tiff(tmp_path / "a.tif", noise(20, 30, 5))
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(tmp_path / "b.png")
    assert check(tmp_path / "a.tif", [4, 3, 2]) == ((30, 20), {})
    assert check(tmp_path / "b.png", [1]) == ((30, 20), {})


def test_an_image_with_fewer_bands_than_named_is_an_error(tmp_path):
    write_tiff(tmp_path / "a.tif", noise(20, 30, 3))
    _, faults = check(tmp_path / "a.tif", [4, 3, 2])
    assert faults == {(True, "images with fewer bands than --bands names"): "a.tif: 3, but band 4 is named"}


def test_a_damaged_image_is_an_error_with_bands_too(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    for bands in ([], [4, 3, 2]):
        assert check(tmp_path / "a.png", bands)[1].keys() == {(True, "unreadable images")}
