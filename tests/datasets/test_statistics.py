"""The mean and the deviation of bands are those of all pixels together."""

import numpy as np
import pytest

from tests.helpers.models import raises_user_error
from tests.helpers.rasters import noise
from xcit_dense.datasets.statistics import measure


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_images_of_several_sizes_are_measured_as_one(dtype):
    images = [noise(20 + size, 30, 4, dtype, top=255, seed=size) for size in range(3)]
    found = measure(iter(images))
    pixels = np.concatenate([image.reshape(-1, 4) for image in images]).astype(float)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), rtol=1e-5)
    assert found.images == 3


def test_a_small_deviation_from_a_large_mean_is_exact():
    found = measure([np.array([[[1e9 - 1], [1e9 + 1]]]), np.array([[[1e9 - 1], [1e9 + 1]]])])
    assert found.std == [1.0]


def test_values_that_are_not_finite_are_left_out():
    image = np.array([[[1.0], [np.nan], [3.0], [np.inf]]], np.float32)
    assert (measure([image]).mean, measure([image]).std) == ([2.0], [1.0])


def test_a_band_with_one_value_is_refused_by_its_number():
    image = noise(20, 30, 3)
    image[..., 1] = 7
    with raises_user_error("channel 2 of 3", "7", "all of 2 images"):
        measure([image, image])


def test_no_images_are_refused():
    with raises_user_error("there are none"):
        measure([])
