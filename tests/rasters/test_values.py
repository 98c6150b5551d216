"""Windows give a model the values that training has seen."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.rasters import noise, write_geotiff
from xcit_dense.media.bands import read_bands
from xcit_dense.media.images import open_image
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import RasterError
from xcit_dense.rasters.values import read_model_bands, read_rgb
from xcit_dense.rasters.window import Window

WINDOW = Window(5, 7, 11, 13)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_bands_of_a_window_are_those_of_the_complete_image(tmp_path, dtype):
    pytest.importorskip("imagecodecs", reason="the extra [large] is not installed")
    path = write_geotiff(tmp_path / "a.tif", noise(30, 40, 5, dtype, top=250))
    complete = read_bands(path, [4, 1, 3]).astype(np.float32)
    with open_source(path) as source:
        np.testing.assert_array_equal(read_model_bands(source, WINDOW, [4, 1, 3]), complete[WINDOW.slices])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_colours_of_a_window_are_those_of_the_complete_image(tmp_path, mode):
    pixels = noise(30, 40, 4, "uint8", 250)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    with open_source(tmp_path / "a.png") as source:
        complete = np.asarray(open_image(tmp_path / "a.png"))
        np.testing.assert_array_equal(read_rgb(source, WINDOW), complete[WINDOW.slices])


def test_values_that_are_not_finite_are_0_where_the_file_does_not_have_data_and_otherwise_an_error():
    array = np.ones((20, 30, 2), np.float32)
    array[6, 8] = np.nan
    source = ArraySource(array, nodata=np.nan)
    values = read_model_bands(source, WINDOW, [2, 1])
    assert values[1, 1].tolist() == [0, 0]
    array[7, 8, 0] = np.inf
    with pytest.raises(RasterError, match="has 1 pixels with values that are not finite in rows 5 to 16"):
        read_model_bands(source, WINDOW, [2, 1])


@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 3), ("uint8", 5), ("uint8", 4)])
def test_an_image_with_other_bands_is_an_error_for_a_model_of_colours(dtype, bands):
    with pytest.raises(RasterError, match=rf"has {bands} bands of {dtype}, but the model needs red, green and blue"):
        read_rgb(ArraySource(noise(30, 40, bands, dtype, 250)), WINDOW)


def test_a_colour_table_is_an_error_for_a_model_of_colours(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", noise(30, 40, 1, "uint8", 250), photometric="palette")
    with open_source(path) as source, pytest.raises(RasterError, match="has a colour table"):
        read_rgb(source, WINDOW)
