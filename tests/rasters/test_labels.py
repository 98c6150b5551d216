"""Label maps and scores as files: opened with the libraries that programs of maps use."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from xcit_dense.errors import UserError
from xcit_dense.rasters.canvas import Canvas
from xcit_dense.rasters.labels import write_label_map, write_scores
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import Georeference
from xcit_dense.rasters.window import Window

rasterio = pytest.importorskip("rasterio", reason="the extra [large] is not installed")
zarr = pytest.importorskip("zarr", reason="the extra [large] is not installed")

CLASSES = ["field", "Häuser & <Straßen>", "water"]
PALETTE = [(1, 2, 3), (200, 100, 50), (0, 0, 255)]


def place():
    return Georeference(rasterio.CRS.from_epsg(32633).to_wkt(), (0.5, 0, 400000, 0, -0.5, 5000000))


def make_labels(height=1500, width=2100, dtype=np.uint8):
    labels = np.zeros((height, width), dtype)
    labels[200:900, 300:1200] = 1
    labels[1000:, :500] = 2
    labels[:, -100:] = 255
    return labels


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "town.tif"
    write_label_map(path, make_labels(), classes=CLASSES, palette=PALETTE, georeference=place(), nodata=255)
    return path


def test_a_label_map_has_its_values_place_and_nodata(written):
    with rasterio.open(written) as file:
        np.testing.assert_array_equal(file.read(1), make_labels())
        assert file.crs.to_epsg() == 32633
        assert tuple(file.transform)[:6] == place().transform
        assert file.nodata == 255
        assert (file.read_masks(1) == 0).sum() == 1500 * 100


def test_a_label_map_is_tiled_and_compressed_and_has_overviews(written):
    with rasterio.open(written) as file:
        assert file.block_shapes == [(512, 512)]
        assert file.compression.name == "deflate"
        assert file.overviews(1) == [2, 4, 8]
        small = file.read(1, out_shape=(375, 525))
    assert np.isin(small, [0, 1, 2, 255]).all()
    assert small[100, 150] == 1
    assert small[300, 50] == 2
    assert written.stat().st_size < 100_000


def test_a_label_map_has_the_colours_and_the_names_of_the_classes(written):
    with rasterio.open(written) as file:
        colours = file.colormap(1)
        assert [colours[index][:3] for index in range(3)] == PALETTE
        assert colours[255] == (0, 0, 0, 0)
        assert json.loads(file.tags(1)["CLASS_NAMES"]) == CLASSES


def test_gdal_finds_the_names_of_the_classes_as_categories(written, tmp_path):
    from rasterio.shutil import copy as copy_as

    copy_as(written, tmp_path / "copy.vrt", driver="VRT")
    copy = (tmp_path / "copy.vrt").read_text(encoding="utf-8")
    for name in ("field", "Häuser &amp; &lt;Straßen&gt;", "water"):
        assert f"<Category>{name}</Category>" in copy


def test_a_label_map_of_many_classes_has_16_bits(tmp_path):
    labels = make_labels(600, 700, np.uint16)
    labels[0, 0] = 299
    classes = [f"class {index}" for index in range(300)]
    write_label_map(tmp_path / "a.tif", labels, classes=classes, nodata=65535)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(1), labels)
        assert file.colormap(1)[299][3] == 255
        assert file.crs is None


def test_a_canvas_is_written_as_zarr_and_read_again(tmp_path):
    canvas = Canvas.create(tmp_path / "a.npy", 1500, 2100, np.uint8, fill=255)
    canvas.write(Window(0, 0, 1500, 2100), make_labels())
    for _ in range(2):  # the second replaces the first
        write_label_map(
            tmp_path / "a.zarr", canvas.array, classes=CLASSES, palette=PALETTE, georeference=place(), nodata=255
        )
    with open_source(tmp_path / "a.zarr") as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 1500, 2100))[..., 0], make_labels())
        assert source.georeference == place()
        assert source.nodata == 255
    assert zarr.open(str(tmp_path / "a.zarr"), mode="r").attrs["CLASS_NAMES"] == CLASSES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.zarr"]


def test_a_directory_that_is_not_zarr_is_not_replaced(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/mine.txt").touch()
    with pytest.raises(UserError, match="exists and is not a Zarr array"):
        write_label_map(tmp_path / "a.zarr", make_labels(), classes=CLASSES)
    assert (tmp_path / "a.zarr/mine.txt").exists()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_scores_have_a_band_for_each_class(tmp_path, dtype, suffix):
    scores = (np.random.default_rng(0).random((600, 700, 3)) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    write_scores(tmp_path / f"a{suffix}", scores, classes=CLASSES, georeference=place())
    with open_source(tmp_path / f"a{suffix}") as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 600, 700)), scores)
        assert source.georeference.transform == place().transform
    if suffix == ".tif":
        with rasterio.open(tmp_path / "a.tif") as file:
            assert list(file.descriptions) == CLASSES


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("a.png", make_labels(8, 200), r"'a.png' cannot be written; end the name with \.tif or \.zarr"),
        ("a.tif", make_labels(8, 200, np.int64), r"the type int64; give \(H, W\), uint8 or uint16"),
    ],
)
def test_labels_that_cannot_be_written_are_an_error(tmp_path, name, labels, message):
    with pytest.raises(UserError, match=message):
        write_label_map(tmp_path / name, labels, classes=CLASSES)


FULL = """
import resource, signal, sys
import numpy as np
from xcit_dense.errors import UserError
from xcit_dense.rasters.labels import write_label_map
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
labels = np.random.default_rng(0).integers(0, 255, (1024, 1024), np.uint8)
try:
    write_label_map(sys.argv[1], labels, classes=["a"])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_a_full_disk_is_an_error_and_leaves_no_file(tmp_path, name):
    path = tmp_path / "out" / name
    found = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, env=os.environ)
    assert f"{path} cannot be written" in found.stdout, found.stderr
    assert not list((tmp_path / "out").iterdir())
