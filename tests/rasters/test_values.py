"""A model of ordinary images gets red, green and blue."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.rasters import noise, write_geotiff
from xcit_dense.media.images import open_image
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import RasterError
from xcit_dense.rasters.values import choose_rgb
from xcit_dense.rasters.window import Window

WINDOW = Window(5, 7, 11, 13)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_colours_of_a_window_are_those_of_the_complete_image(tmp_path, mode):
    pixels = noise(30, 40, 4, "uint8", 250)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    with open_source(tmp_path / "a.png") as source:
        complete = np.asarray(open_image(tmp_path / "a.png"))
        np.testing.assert_array_equal(source.read(WINDOW, choose_rgb(source, "")), complete[WINDOW.slices])


@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 3), ("uint8", 5), ("uint8", 4)])
def test_an_image_with_other_bands_is_an_error_for_a_model_of_colours(dtype, bands):
    with pytest.raises(RasterError, match=rf"has {bands} bands of {dtype}, .* RGB of 8 bits; convert\."):
        choose_rgb(ArraySource(noise(30, 40, bands, dtype, 250)), "convert")


def test_a_colour_table_is_an_error_for_a_model_of_colours(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", noise(30, 40, 1, "uint8", 250), photometric="palette")
    with open_source(path) as source, pytest.raises(RasterError, match="has a colour table"):
        choose_rgb(source, "convert")
