"""Images with many bands or 16 bits are read without loss, upright, and refused by name."""

import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.models import raises_user_error
from tests.helpers.rasters import noise, write_tiff
from xcit_dense.errors import MissingLibraryError
from xcit_dense.media.bands import Raster, find_loss, read_bands, read_raster, read_size


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 13])
def test_a_tiff_keeps_the_values_of_each_band(tmp_path, count, dtype, planarconfig):
    pixels = noise(20, 30, count, dtype, top=250)
    write_tiff(tmp_path / "a.tif", pixels, planarconfig=planarconfig)
    got = read_bands(tmp_path / "a.tif", range(1, count + 1))
    assert got.dtype == pixels.dtype
    assert np.array_equal(got, pixels)
    assert read_raster(tmp_path / "a.tif") == Raster(20, 30, count, dtype)


def test_bands_are_returned_in_the_given_order(tmp_path):
    pixels = noise(20, 30, 4)
    write_tiff(tmp_path / "a.tif", pixels)
    assert np.array_equal(read_bands(tmp_path / "a.tif", [4, 2, 2]), pixels[..., [3, 1, 1]])


@pytest.mark.parametrize("options", [{"compression": "zlib", "tile": (16, 16)}, {"bigtiff": True}, {"byteorder": ">"}])
def test_compressed_tiled_and_large_tiffs_are_read(tmp_path, options):
    pixels = noise(40, 30, 5)
    write_tiff(tmp_path / "a.tif", pixels, **options)
    assert np.array_equal(read_bands(tmp_path / "a.tif", [1, 2, 3, 4, 5]), pixels)


def test_the_pages_of_a_tiff_are_bands(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    pixels = noise(20, 30, 6)
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    assert np.array_equal(read_bands(tmp_path / "a.tif", [6, 1]), pixels[..., [5, 0]])


def test_a_grey_tiff_has_one_band(tmp_path):
    Image.fromarray(noise(20, 30, 1)[..., 0]).save(tmp_path / "a.tif")
    pytest.importorskip("tifffile", reason="tifffile is not installed")
    assert np.array_equal(read_bands(tmp_path / "a.tif", [1]), noise(20, 30, 1))


@pytest.mark.parametrize(("count", "dtype"), [(1, "uint8"), (3, "uint8"), (4, "uint8"), (1, "uint16"), (3, "uint16")])
def test_a_png_keeps_its_values_with_red_as_the_first_band(tmp_path, count, dtype):
    pixels = noise(20, 30, count, dtype, top=np.iinfo(dtype).max)
    blue_first = pixels[..., [2, 1, 0, 3][:count]] if count > 2 else pixels
    cv2.imwrite(str(tmp_path / "a.png"), blue_first)
    got = read_bands(tmp_path / "a.png", range(1, count + 1))
    assert got.dtype == dtype
    assert np.array_equal(got, pixels)
    assert read_raster(tmp_path / "a.png") == Raster(20, 30, count, dtype)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_upright(tmp_path, orientation, suffix):
    if suffix == "tif":
        pytest.importorskip("tifffile", reason="tifffile is not installed")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(20, 30, 3, "uint8", top=250)).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_bands(path, [1, 2, 3]), expected)
    assert (read_raster(path).height, read_raster(path).width) == expected.shape[:2]


def test_an_image_with_fewer_bands_is_refused_by_name_and_number(tmp_path):
    write_tiff(tmp_path / "a.tif", noise(20, 30, 3))
    with raises_user_error(f"{tmp_path / 'a.tif'} has 3 bands, but band 4 is needed"):
        read_bands(tmp_path / "a.tif", [4, 3, 2])


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"II*\0\x08\0\0\0", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, content):
    pytest.importorskip("tifffile", reason="tifffile is not installed")
    (tmp_path / name).write_bytes(content)
    for read in (lambda path: read_bands(path, [1]), read_raster):
        with raises_user_error(f"{tmp_path / name} is not a readable image"):
            read(tmp_path / name)
    assert find_loss(tmp_path / name) == ""


def test_a_missing_file_is_refused(tmp_path):
    with raises_user_error("No image at", "gone.tif"):
        read_bands(tmp_path / "gone.tif", [1])


def test_a_stack_of_images_is_refused_with_its_axes(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 3, 20, 30), np.uint16), metadata={"axes": "TCYX"})
    with raises_user_error(tmp_path / "a.tif", "TCYX"):
        read_bands(tmp_path / "a.tif", [1])


def test_a_missing_library_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", noise(20, 30, 5))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingLibraryError, match=r"tifffile.*pip install 'xcit-dense\[bands\]'"):
        read_bands(tmp_path / "a.tif", [1])


def test_a_compression_that_needs_another_library_is_named(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    write_tiff(tmp_path / "a.tif", noise(20, 30, 5))

    def refuse(series, **_):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    with pytest.raises(MissingLibraryError, match=r"a\.tif.*LZW.*pip install 'xcit-dense\[bands\]'"):
        read_bands(tmp_path / "a.tif", [1])


@pytest.mark.parametrize(
    ("count", "dtype", "words"),
    [
        (1, "uint8", ""),
        (3, "uint8", "3 bands of uint8"),  # without the mark of colours, OpenCV reads the first band
        (4, "uint8", "4 bands of uint8"),
        (1, "uint16", "1 band of uint16"),
        (5, "uint16", "5 bands of uint16"),
        (1, "float32", "1 band of float32"),
        (3, "float32", "3 bands of float32"),
    ],
)
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_the_loss_of_an_ordinary_reader_is_found_in_a_tiff(tmp_path, count, dtype, words, planarconfig):
    write_tiff(tmp_path / "a.tif", noise(32, 32, count, dtype, top=250), planarconfig=planarconfig)
    assert find_loss(tmp_path / "a.tif") == words


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_ordinary_images_lose_nothing(tmp_path, mode, suffix):
    Image.new(mode, (30, 20)).save(tmp_path / f"a.{suffix}")
    assert find_loss(tmp_path / f"a.{suffix}") == ""


@pytest.mark.parametrize("count", [1, 3])
def test_16_bits_of_a_png_are_found(tmp_path, count):
    cv2.imwrite(str(tmp_path / "a.png"), noise(20, 30, count))
    assert find_loss(tmp_path / "a.png") == f"{count} band{'s' * (count > 1)} of uint16"


def test_the_size_of_an_image_needs_no_library_that_the_image_does_not_need(tmp_path, monkeypatch):
    write_tiff(tmp_path / "many.tif", noise(20, 30, 5))
    Image.new("RGB", (30, 20)).save(tmp_path / "few.tif")
    assert read_size(tmp_path / "many.tif") == read_size(tmp_path / "few.tif") == (30, 20)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert read_size(tmp_path / "few.tif") == (30, 20)
    with pytest.raises(MissingLibraryError, match="tifffile"):
        read_size(tmp_path / "many.tif")
