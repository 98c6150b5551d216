"""Bands of any range are shown with the contrast that they have."""

import numpy as np
import pytest

from tests.helpers.rasters import noise
from xcit_dense.visualization.bands import stretch


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
