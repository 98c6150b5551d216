"""Training chips of large images."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.helpers.rasters import noise, write_geotiff
from xcit_dense.cli.main import main
from xcit_dense.datasets.chips import cut_chips
from xcit_dense.datasets.formats.label_maps import find
from xcit_dense.datasets.shapes.map import write_map
from xcit_dense.errors import UserError
from xcit_dense.media.bands import read_bands
from xcit_dense.rasters.labels import write_label_map
from xcit_dense.rasters.objects import MapObject, write_geojson
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import Georeference
from xcit_dense.rasters.window import Window

pytest.importorskip("rasterio", reason="the extra [large] is not installed")

CLASSES = ["field", "house"]


def write_pair(directory, height, width, bands=3, dtype="uint8", **options):
    labels = (noise(height, width, 1, "uint8", 2)[..., 0] > 0).astype(np.uint8)
    write_label_map(directory / "labels.tif", labels, classes=CLASSES, nodata=255)
    image = noise(height, width, bands, dtype, 250)
    return write_geotiff(directory / "a.tif", image, place=False, **options), directory / "labels.tif", image, labels


def chips_of(out, split):
    """The windows of the chips of a split, by their names."""
    for path in sorted((out / "images" / split).iterdir()):
        _, row, column = path.stem.split("_")
        yield path, int(row), int(column)


@pytest.mark.parametrize("overlap", [0, 16])
def test_chips_have_the_pixels_of_the_image_and_no_pixel_is_in_both_splits(tmp_path, overlap):
    path, labels_path, image, labels = write_pair(tmp_path, 700, 500)
    counts = cut_chips(path, labels_path, tmp_path / "out", size=64, overlap=overlap, val_share=0.3)
    seen = {}
    for split in ("train", "val"):
        seen[split] = np.zeros(labels.shape, bool)
        for file, row, column in chips_of(tmp_path / "out", split):
            window = Window(row, column, 64, 64)
            np.testing.assert_array_equal(np.asarray(Image.open(file)), image[window.slices])
            label_image = np.asarray(Image.open(tmp_path / "out/labels" / split / f"{file.stem}.png"))
            np.testing.assert_array_equal(label_image, labels[window.slices])
            seen[split][window.slices] = True
    assert not (seen["train"] & seen["val"]).any()
    assert (seen["train"] | seen["val"]).all()
    assert counts.train > counts.val > 0


def test_training_recognises_the_chips_and_their_classes(tmp_path, capsys):
    write_map(tmp_path, 600, scene=100)
    out = tmp_path / "out"
    main(["chips", f"{tmp_path}/map.tif", f"{tmp_path}/map_labels.tif", "--out", str(out), "--size", "64"])
    data = find(out)
    assert list(data.classes) == ["background", "circle", "square", "triangle", "star"]
    printed = capsys.readouterr().out
    assert f"{len(data.splits['train'])} chips for training, {len(data.splits['val'])} for validation" in printed
    assert "Skipped: 0 windows without data, 0 without labels" in printed


def test_windows_without_data_or_without_labels_are_skipped_and_counted(tmp_path):
    image = np.full((400, 400, 3), 9, np.uint8)
    image[:100, :200] = 0
    labels = np.zeros((400, 400), np.uint8)
    labels[:, 300:] = 255
    labels[0, :200] = 1  # labels where the image does not have data
    write_label_map(tmp_path / "labels.tif", labels, classes=CLASSES)
    write_geotiff(tmp_path / "a.tif", image, nodata=0)
    counts = cut_chips(tmp_path / "a.tif", tmp_path / "labels.tif", tmp_path / "out", size=100, val_share=0)
    assert (counts.train, counts.val, counts.no_data, counts.no_labels) == (10, 0, 2, 4)


def test_pixels_without_data_are_ignored_in_the_label_image_and_are_finite(tmp_path):
    image = np.ones((100, 100, 2), np.float32)
    image[:50] = np.nan
    write_geotiff(tmp_path / "a.tif", image, nodata=np.nan)
    write_label_map(tmp_path / "labels.tif", np.ones((100, 100), np.uint8), classes=CLASSES)
    cut_chips(tmp_path / "a.tif", tmp_path / "labels.tif", tmp_path / "out", size=100, val_share=0)
    label_image = np.asarray(Image.open(next((tmp_path / "out/labels/train").iterdir())))
    assert Counter(label_image.ravel().tolist()) == {255: 5000, 1: 5000}
    assert np.isfinite(read_bands(next((tmp_path / "out/images/train").iterdir()), [1, 2])).all()


def test_other_bands_become_tiffs_with_all_bands(tmp_path):
    path, labels_path, image, _ = write_pair(tmp_path, 128, 128, 5, "uint16")
    cut_chips(path, labels_path, tmp_path / "out", size=64, val_share=0)
    file, row, column = next(chips_of(tmp_path / "out", "train"))
    assert file.suffix == ".tif"
    expected = image[Window(row, column, 64, 64).slices]
    np.testing.assert_array_equal(read_bands(file, [1, 2, 3, 4, 5]), expected)


def test_the_seed_chooses_the_blocks(tmp_path):
    path, labels_path, *_ = write_pair(tmp_path, 800, 800)
    for seed in (0, 0, 1):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        cut_chips(path, labels_path, out, size=50, seed=seed)
    names = [{file.name for file in out.glob("images/val/*")} for out in sorted(tmp_path.glob("out*"))]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; write 1 or more"),
        ({"size": 64, "overlap": 64}, "overlap is 64; write a number from 0 to 63"),
        ({"size": 64, "val_share": 1}, "val_share is 1; write a number from 0 up to 1"),
        ({"size": 500}, "but chips have 500 pixels a side; write --size 200 or less"),
        ({"size": 200}, "one block of chips"),
        ({"size": 64, "val_share": 0, "classes": ["field"]}, r"has the value 1 in rows .*, but there are 1 classes"),
    ],
)
def test_options_that_do_not_fit_are_errors(tmp_path, options, message):
    path, labels_path, *_ = write_pair(tmp_path, 200, 300)
    with pytest.raises(UserError, match=message):
        cut_chips(path, labels_path, tmp_path / "out", **options)


def test_labels_of_another_size_place_or_kind_are_errors(tmp_path):
    path, *_ = write_pair(tmp_path, 200, 300)
    write_label_map(tmp_path / "small.tif", np.zeros((200, 299), np.uint8), classes=CLASSES)
    with pytest.raises(UserError, match="give a label map of the image's size"):
        cut_chips(path, tmp_path / "small.tif", tmp_path / "out")
    georeference = Georeference("", (0.5, 0, 400001, 0, -0.5, 5000000))
    write_label_map(tmp_path / "b.tif", np.zeros((200, 300), np.uint8), classes=CLASSES, georeference=georeference)
    placed = write_geotiff(tmp_path / "placed.tif", noise(200, 300, 3, "uint8", 250))
    with pytest.raises(UserError, match="are different places of the map"):
        cut_chips(placed, tmp_path / "b.tif", tmp_path / "out")
    with pytest.raises(UserError, match="has 3 bands of uint8; give a label map"):
        cut_chips(path, path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    with pytest.raises(UserError, match="exists and is not empty"):
        cut_chips(path, path, tmp_path / "full")


def test_the_large_image_of_shapes_has_a_place_and_shapes(tmp_path):
    main(["shapes", str(tmp_path), "--geotiff", "300", "--size", "128"])
    with open_source(tmp_path / "map.tif") as image, open_source(tmp_path / "map_labels.tif") as labels:
        assert (image.height, image.width, image.bands) == (300, 300, 3)
        assert image.georeference == labels.georeference
        assert image.georeference.transform[0] == 0.5
        values = labels.read(Window(0, 0, 300, 300))
        assert len(np.unique(values)) > 2
        assert image.read(Window(0, 0, 300, 300)).std() > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.tif", "map_labels.tif", "map_labels.tif.aux.xml"]


def test_chips_are_cut_from_polygons_and_what_is_left_out_is_printed(tmp_path, capsys):
    pytest.importorskip("shapely", reason="the extra [large] is not installed")
    write_geotiff(tmp_path / "a.tif", noise(200, 200, 3, "uint8", 250), place=False)
    objects = [MapObject((0, 0, 100, 100), 1, 0.9), MapObject((900, 0, 910, 9), 0, 0.9)]
    write_geojson(tmp_path / "a.geojson", objects, classes=CLASSES)
    words = ["chips", str(tmp_path / "a.tif"), str(tmp_path / "a.geojson"), "--size", "50", "--val-share", "0"]
    main([*words, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "1 feature is left out: outside of the image" in printed
    assert "16 chips for training" in printed
    assert list(find(tmp_path / "out").classes) == ["background", "field", "house"]
    label_images = [np.asarray(Image.open(path)) for path in (tmp_path / "out/labels/train").iterdir()]
    assert Counter(np.concatenate(label_images).ravel().tolist()) == {0: 30000, 2: 10000}
    main([*words, "--no-background", "--class-property", "class_id", "--out", str(tmp_path / "parts")])
    printed = capsys.readouterr().out
    assert "4 chips for training" in printed
    assert "12 without labels" in printed
    assert (tmp_path / "parts/classes.txt").read_text().split() == ["0", "1"]


@pytest.mark.parametrize("options", [{"class_property": "kind"}, {"background": False}])
def test_options_of_polygons_are_refused_for_a_label_map(tmp_path, options):
    path, labels_path, *_ = write_pair(tmp_path, 64, 64)
    with pytest.raises(UserError, match=r"is a label map, and --.* is for polygons"):
        cut_chips(path, labels_path, tmp_path / "out", size=64, val_share=0, **options)
