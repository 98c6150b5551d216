"""Files of all formats, read by windows."""

import numpy as np
import pytest

from tests.helpers.rasters import noise, write_geotiff
from xcit_dense.errors import MissingLibraryError
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import RasterError
from xcit_dense.rasters.window import Window

rasterio = pytest.importorskip("rasterio", reason="the extra [large] is not installed")
tifffile = pytest.importorskip("tifffile", reason="the extra [large] is not installed")
zarr = pytest.importorskip("zarr", reason="the extra [large] is not installed")

WINDOW = Window(100, 37, 150, 91)
ALL = Window(0, 0, 300, 200)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(("driver", "suffix"), [("GTiff", ".tif"), ("COG", ".tif"), ("JP2OpenJPEG", ".jp2")])
def test_a_window_has_the_values_of_the_file_and_its_place(tmp_path, driver, suffix, dtype):
    if driver == "JP2OpenJPEG" and dtype == "float32":
        pytest.skip("JPEG 2000 does not have floating-point numbers")
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    array = noise(300, 200, 4, dtype, top=255)
    path = write_geotiff(tmp_path / f"a{suffix}", array, driver=driver, **options)
    with open_source(path) as source:
        assert (source.height, source.width, source.bands, source.dtype) == (300, 200, 4, dtype)
        np.testing.assert_array_equal(source.read(WINDOW, [4, 2]), array[WINDOW.slices][..., [3, 1]])
        assert source.georeference.transform == (0.5, 0, 400000, 0, -0.5, 5000000)
        assert rasterio.CRS.from_wkt(source.georeference.crs) == rasterio.CRS.from_epsg(32633)


def test_a_file_without_a_place_does_not_have_a_georeference(tmp_path):
    with open_source(write_geotiff(tmp_path / "a.tif", noise(30, 20, 1), place=False)) as source:
        assert source.georeference is None


@pytest.mark.parametrize("nodata", [0.0, float("nan")])
def test_nodata_pixels_are_not_valid(tmp_path, nodata):
    array = np.ones((300, 200, 2), np.float32)
    array[110, 40] = nodata
    array[111, 40, 0] = nodata  # the other band has data
    with open_source(write_geotiff(tmp_path / "a.tif", array, nodata=nodata)) as source:
        assert np.isnan(source.nodata) if np.isnan(nodata) else source.nodata == nodata
        assert np.argwhere(~source.read_valid(WINDOW)).tolist() == [[10, 3]]


def test_transparent_and_masked_pixels_are_not_valid(tmp_path):
    alpha = np.full((300, 200, 4), 255, np.uint8)
    alpha[110, 40, 3] = 0
    path = write_geotiff(tmp_path / "alpha.tif", alpha, photometric="RGB", alpha="YES")
    masked = write_geotiff(tmp_path / "mask.tif", alpha[..., :3])
    with rasterio.open(masked, "r+") as file:
        file.write_mask(alpha[..., 3] > 0)
    for name in (path, masked):
        with open_source(name) as source:
            assert np.argwhere(~source.read_valid(WINDOW)).tolist() == [[10, 3]]


def test_a_reduced_image_is_read_from_the_overviews(tmp_path):
    path = write_geotiff(tmp_path / "a.tif", noise(1024, 512, 1, "uint8", 255))
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], rasterio.enums.Resampling.average)
    with open_source(path) as source:
        small = source.read_small(256)
    assert small.shape == (256, 128, 1)
    assert small.std() < 40  # averages of 16 pixels, where the image itself has 73


def test_a_truncated_file_is_an_error_with_the_window_and_other_windows_are_readable(tmp_path):
    array = noise(1024, 256, 1, "uint16")
    path = write_geotiff(tmp_path / "a.tif", array)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    with open_source(path) as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 256, 256)), array[:256])
        with pytest.raises(RasterError, match=r"a\.tif is not readable in rows 900 to 1000, columns 0 to 256 \(.+\)"):
            source.read(Window(900, 0, 100, 256))


@pytest.mark.parametrize("content", [b"", b"II*\0" + bytes(50), b"not an image"])
@pytest.mark.parametrize("suffix", [".tif", ".jp2"])
def test_a_file_that_is_not_an_image_is_an_error(tmp_path, content, suffix):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(RasterError, match="is not a readable image"):
        open_source(tmp_path / f"a{suffix}")


def test_a_turned_tiff_is_upright_as_in_training(tmp_path):
    array = noise(30, 20, 3, "uint8", 255)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    with open_source(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 20, 30)), np.rot90(array, -1))


def test_a_compressed_tiff_of_one_block_is_an_error_that_names_the_conversion(tmp_path, monkeypatch):
    monkeypatch.setattr("xcit_dense.rasters.geo._LARGEST_BLOCK", 1000)
    path = write_geotiff(tmp_path / "a.tif", noise(64, 64, 1), tiled=False, blockysize=64)
    with pytest.raises(RasterError, match=r"blocks of 64 x 64 pixels.*rio convert"):
        open_source(path)


@pytest.mark.parametrize(("axes", "order"), [("CYX", (2, 0, 1)), ("YXC", (0, 1, 2)), ("YX", None)])
def test_ome_tiffs_of_any_axes_are_read_as_rows_columns_and_bands(tmp_path, axes, order):
    array = noise(300, 200, 5 if order else 1)
    stored = array.transpose(order) if order else array[..., 0]
    options = {"photometric": "minisblack", "tile": (64, 64), "planarconfig": "contig" if axes == "YXC" else None}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(np.ascontiguousarray(stored), subifds=1, metadata={"axes": axes}, **options)
        half = stored[:, ::2, ::2] if axes == "CYX" else stored[::2, ::2]
        file.write(np.ascontiguousarray(half), subfiletype=1, **options)
    bands = [3, 1] if order else [1]
    with open_source(tmp_path / "a.ome.tif") as source:
        assert (source.height, source.width, source.bands) == array.shape
        np.testing.assert_array_equal(source.read(WINDOW, bands), array[WINDOW.slices][..., [n - 1 for n in bands]])
        assert source.read_small(100).shape == (100, 67, array.shape[2])


def test_a_damaged_tile_of_an_ome_tiff_is_an_error(tmp_path):
    pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    path = tmp_path / "a.ome.tif"
    options = {"photometric": "minisblack", "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(path, noise(300, 200, 3).transpose(2, 0, 1), metadata={"axes": "CYX"}, **options)
    with tifffile.TiffFile(path) as file:
        start = file.series[0].pages[0].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with open_source(path) as source, pytest.raises(RasterError, match="is not readable in rows 0 to 10"):
        source.read(Window(0, 0, 10, 10), [1])


def test_an_ome_tiff_with_more_axes_is_an_error(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((2, 3, 32, 32), np.uint8), metadata={"axes": "TCYX"})
    with pytest.raises(RasterError, match=r"with the axes TCYX; give an image with rows \(Y\)"):
        open_source(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("axes", ["CYX", "YXC"])
def test_zarr_arrays_are_read_with_and_without_names_of_axes(tmp_path, axes):
    array = noise(300, 200, 4)
    stored = array.transpose(2, 0, 1) if axes == "CYX" else array
    for name, attributes in (("plain.zarr", {}), ("named.zarr", {"_ARRAY_DIMENSIONS": list(axes.lower())})):
        file = zarr.open(str(tmp_path / name), mode="w", shape=stored.shape, chunks=(64, 64, 64), dtype="uint16")
        file[:] = stored
        file.attrs.update(attributes)
        with open_source(tmp_path / name) as source:
            np.testing.assert_array_equal(source.read(WINDOW, [2, 4]), array[WINDOW.slices][..., [1, 3]])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_group_is_read_at_its_largest_level(tmp_path, version):
    array = noise(300, 200, 3, "uint8", 255)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    axes = [{"name": name} for name in "tcyx"]
    content = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]}
    group.attrs.update({"ome": content} if version == "0.5" else content)
    for level, step in enumerate((1, 2)):
        stored = array[::step, ::step].transpose(2, 0, 1)[None]
        name = str(tmp_path / "a.zarr" / str(level))
        zarr.open(name, mode="w", shape=stored.shape, chunks=(1, 1, 64, 64), dtype="uint8")[:] = stored
    with open_source(tmp_path / "a.zarr") as source:
        np.testing.assert_array_equal(source.read(WINDOW), array[WINDOW.slices])
        assert source.read_small(75).shape == (75, 50, 3)


def test_a_damaged_chunk_and_a_group_without_metadata_are_errors(tmp_path):
    file = zarr.open(str(tmp_path / "a.zarr"), mode="w", shape=(64, 64), chunks=(32, 32), dtype="uint8")
    file[:] = 7
    chunks = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file() and "z" not in path.name]
    for chunk in chunks:
        chunk.write_bytes(b"damaged")
    with open_source(tmp_path / "a.zarr") as source, pytest.raises(RasterError, match="is not readable in rows 0 to 8"):
        source.read(Window(0, 0, 8, 8))
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    with pytest.raises(RasterError, match="is a Zarr group without the metadata of OME-Zarr"):
        open_source(tmp_path / "b.zarr")


def test_slides_have_colours_and_levels(tmp_path):
    pytest.importorskip("openslide", reason="the extra [slides] is not installed")
    array = noise(300, 200, 3, "uint8", 255)
    tifffile.imwrite(tmp_path / "a.svs", array, photometric="rgb", tile=(64, 64))
    with open_source(tmp_path / "a.svs") as source:
        np.testing.assert_array_equal(source.read(WINDOW, [3, 1]), array[WINDOW.slices][..., [2, 0]])
        assert source.read_valid(WINDOW).all()
        assert source.read_small(100).shape == (100, 67, 3)
    (tmp_path / "b.svs").write_bytes(b"not a slide")
    with pytest.raises(RasterError, match="is not a readable slide"):
        open_source(tmp_path / "b.svs")


@pytest.mark.parametrize("library", ["rasterio", "tifffile", "zarr", "openslide"])
def test_a_missing_library_is_an_error_with_the_command(tmp_path, monkeypatch, library):
    name = {"rasterio": "a.jp2", "tifffile": "a.tif", "zarr": "a.zarr", "openslide": "a.svs"}[library]
    (tmp_path / name).touch()
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'xcit-dense\[(large|slides)\]'"):
        open_source(tmp_path / name)
