"""Bands of any range are shown with the contrast that they have."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from tests.helpers.rasters import noise, write_tiff
from xcit_dense.visualization.bands import open_pixels, stretch


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 20), ("uint16", 60000), ("float32", 0.01)])
def test_each_band_is_stretched_to_the_whole_range(dtype, top):
    shown = stretch(noise(40, 50, 3, dtype, top))
    assert (shown.shape, shown.dtype) == ((40, 50, 3), np.uint8)
    assert (shown.min(axis=(0, 1)) == 0).all()
    assert (shown.max(axis=(0, 1)) == 255).all()


def test_a_few_extreme_values_do_not_darken_the_image():
    image = noise(100, 100, 3, "float32", top=100)
    expected = stretch(image)
    image[0, :50] = 1e6
    assert np.abs(stretch(image)[1:].astype(int) - expected[1:]).max() < 10


def test_one_band_is_grey():
    shown = stretch(noise(40, 50, 1))
    assert (shown == shown[..., :1]).all()
    assert shown.shape == (40, 50, 3)


def test_a_constant_band_and_missing_values_are_black():
    image = np.full((4, 4, 3), 7.0)
    image[..., 1] = np.nan
    image[..., 2] = np.arange(16).reshape(4, 4)
    image[0, 0, 2] = np.inf
    shown = stretch(image)
    assert not shown[..., :2].any()
    assert shown[0, 0, 2] == 0
    assert shown[..., 2].max() == 255


@pytest.mark.parametrize(("count", "dtype"), [(5, "uint16"), (2, "float32"), (1, "uint16")])
def test_an_image_of_other_bands_is_opened_by_its_first_bands(tmp_path, count, dtype):
    pixels = noise(40, 50, count, dtype)
    write_tiff(tmp_path / "a.tif", pixels)
    assert np.array_equal(open_pixels(tmp_path / "a.tif"), stretch(pixels[..., : 3 if count >= 3 else 1]))


def test_an_ordinary_image_is_opened_as_it_is(tmp_path):
    pixels = noise(40, 50, 3, "uint8", top=99)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(open_pixels(tmp_path / "a.png"), pixels)
    with raises_user_error("No image at"):
        open_pixels(tmp_path / "gone.png")
