"""Arrays and images in memory as sources, and the table of readers."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.rasters import noise
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.open import is_large, open_source
from xcit_dense.rasters.source import RasterError, Source
from xcit_dense.rasters.window import Window, blocks_of


def test_windows_of_an_array_have_its_values_and_its_type():
    array = noise(20, 30, 4)
    with ArraySource(array) as source:
        assert (source.height, source.width, source.bands, source.dtype) == (20, 30, 4, np.uint16)
        np.testing.assert_array_equal(source.read(Window(3, 5, 7, 11)), array[3:10, 5:16])


def test_bands_are_returned_in_the_wanted_order():
    array = noise(8, 8, 4)
    found = ArraySource(array).read(Window(0, 0, 8, 8), [4, 1, 1])
    np.testing.assert_array_equal(found, array[..., [3, 0, 0]])


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(0, 0, 9, 2), Window(0, 7, 2, 2), Window(0, 0, 0, 2)])
def test_a_window_outside_the_image_is_an_error(window):
    with pytest.raises(RasterError, match="not inside array, which has 8 rows and 8 columns"):
        ArraySource(noise(8, 8, 1)).read(window)


def test_a_missing_band_is_an_error_with_the_number_of_bands():
    with pytest.raises(RasterError, match=r"has 3 bands, but the bands 4,1 are needed"):
        ArraySource(noise(8, 8, 3)).read(Window(0, 0, 8, 8), [4, 1])


@pytest.mark.parametrize("nodata", [0.0, float("nan")])
def test_pixels_whose_bands_all_have_the_nodata_value_are_not_valid(nodata):
    array = np.ones((4, 4, 2), np.float32)
    array[0, 0] = nodata
    array[1, 1, 0] = nodata
    valid = ArraySource(array, nodata=nodata).read_valid(Window(0, 0, 4, 4))
    assert np.argwhere(~valid).tolist() == [[0, 0]]


def test_an_error_of_a_reader_names_the_file_the_window_and_the_reason():
    class Damaged(Source):
        path, height, width, bands, dtype = "scan.tif", 8, 8, 1, np.dtype("uint8")

        def _read(self, window, bands):
            raise OSError("TIFFReadEncodedTile failed.")

    with pytest.raises(RasterError, match=r"scan.tif is not readable in rows 0 to 4.*\(TIFFReadEncodedTile failed\)"):
        Damaged().read(Window(0, 0, 4, 4))


def test_a_reduced_image_has_the_longer_side_and_pixels_of_the_image():
    array = np.arange(5000 * 3000, dtype=np.uint32).reshape(5000, 3000)
    small = ArraySource(array).read_small(100)
    assert small.shape == (100, 60, 1)
    assert small[0, 0, 0] == array[25, 25]
    assert small[-1, -1, 0] == array[4975, 2975]


def test_blocks_cover_every_pixel_once():
    count = np.zeros((10, 23), int)
    for block in blocks_of(10, 23, 8):
        count[block.slices] += 1
    assert (count == 1).all()


def test_a_photo_is_read_upright_by_its_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "a.jpg", exif=exif)
    with open_source(tmp_path / "a.jpg") as source:
        assert (source.height, source.width, source.bands) == (30, 20, 3)


def test_transparent_pixels_of_a_png_do_not_have_data(tmp_path):
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[2, 3, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with open_source(tmp_path / "a.png") as source:
        assert np.argwhere(~source.read_valid(Window(0, 0, 8, 8))).tolist() == [[2, 3]]


def test_an_image_without_tiles_that_is_too_large_is_an_error_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("xcit_dense.rasters.memory.LIMIT", 10)
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    with pytest.raises(RasterError, match=r"has 600 pixels, but \.png files of at most 10 pixels"):
        open_source(tmp_path / "a.png")


def test_unknown_suffixes_and_missing_files_are_errors(tmp_path):
    with pytest.raises(RasterError, match=r"the suffixes are \.tif"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(RasterError, match="No image at"):
        open_source(tmp_path / "a.tif")


def test_formats_with_tiles_are_large():
    assert [is_large(name) for name in ("a.TIF", "a.jp2", "a.zarr", "a.svs", "a.png", "a.txt")] == [True] * 4 + [
        False
    ] * 2
