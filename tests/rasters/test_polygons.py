"""Polygons of GeoJSON become the label map that a drawing of all pixels gives."""

import json

import numpy as np
import pytest

pytest.importorskip("rasterio", reason="the extra [large] is not installed")
pytest.importorskip("shapely", reason="the extra [large] is not installed")

from rasterio.warp import transform

from tests.helpers.models import raises_user_error
from tests.helpers.rasters import noise, write_geotiff
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.objects import MapObject, write_geojson
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.polygons import PolygonSource
from xcit_dense.rasters.source import Georeference
from xcit_dense.rasters.window import Window, blocks_of

WHERE = {"field": (10, 20, 60, 70), "house": (50, 40, 90, 60)}  # x1, y1, x2, y2 in pixels
IMAGE = ArraySource(np.zeros((80, 120), np.uint8), path="image")


def ring(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]


def feature(rings, name="field", kind="Polygon", **properties):
    properties = {"class": name, **properties} if name else properties
    return {"type": "Feature", "properties": properties, "geometry": {"type": kind, "coordinates": rings}}


def write(path, features, **members):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    return path


def named(crs):
    return {"crs": {"type": "name", "properties": {"name": crs}}}


def expected(outside=0, first=1):
    labels = np.full((80, 120), outside, np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(WHERE.values()):
        labels[y1:y2, x1:x2] = first + number
    return labels


def everything(source, size=None):
    found = np.zeros((source.height, source.width), np.uint8)
    for block in blocks_of(source.height, source.width, size or max(source.height, source.width)):
        found[block.slices] = source.read(block)[..., 0]
    return found


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.geojson", [feature([ring(*box)], name) for name, box in WHERE.items()])


@pytest.mark.parametrize("size", [None, 7, 32])
def test_windows_have_the_labels_of_the_polygons_and_later_polygons_cover_earlier_ones(path, size):
    labels = PolygonSource(path, IMAGE)
    assert labels.classes == ["background", "field", "house"]
    np.testing.assert_array_equal(everything(labels, size), expected())


def test_without_a_background_other_pixels_have_no_label(path):
    labels = PolygonSource(path, IMAGE, background=False)
    assert labels.classes == ["field", "house"]
    np.testing.assert_array_equal(everything(labels), expected(255, 0))
    np.testing.assert_array_equal(labels.read_valid(Window(0, 0, 80, 120)), expected(255, 0) != 255)


def test_the_user_chooses_the_order_of_the_classes_and_the_property(tmp_path):
    features = [{**feature([ring(*box)], None), "properties": {"kind": name}} for name, box in WHERE.items()]
    path = write(tmp_path / "a.geojson", features)
    labels = PolygonSource(path, IMAGE, class_property="kind", classes=["house", "background", "field"])
    assert np.unique(everything(labels)).tolist() == [0, 1, 2]
    assert labels.read(Window(45, 70, 1, 1)).item() == 0
    with raises_user_error("is called 'class'", "Valid names: kind", "--class-property"):
        PolygonSource(path, IMAGE)
    with raises_user_error("has the class 'house'", "name all classes with --classes"):
        PolygonSource(path, IMAGE, class_property="kind", classes=["field"])


def test_classes_that_are_numbers_are_sorted_by_their_values(tmp_path):
    path = write(tmp_path / "a.geojson", [feature([ring(0, 0, 9, 9)], number) for number in (10, 9, 2)])
    assert PolygonSource(path, IMAGE, background=False).classes == ["2", "9", "10"]


def test_holes_and_several_parts_are_drawn(tmp_path):
    rings = [ring(0, 0, 30, 30), ring(10, 10, 20, 20)]
    parts = [[ring(40, 0, 50, 10)], [ring(60, 0, 70, 10)]]
    features = [feature(rings), feature(parts, kind="MultiPolygon")]
    labels = everything(PolygonSource(write(tmp_path / "a.geojson", features), IMAGE))
    assert labels.sum() == 30 * 30 - 10 * 10 + 2 * 10 * 10
    assert labels[15, 15] == 0


@pytest.mark.parametrize(
    "crs", ["urn:ogc:def:crs:EPSG::32633", "EPSG:4326", "urn:ogc:def:crs:OGC:1.3:CRS84", None, "EPSG:3857"]
)
def test_positions_in_any_crs_are_moved_to_the_image(tmp_path, crs):
    image = write_geotiff(tmp_path / "a.tif", noise(80, 120, 3, "uint8", 250))
    features = []
    with open_source(image) as source:
        for name, box in WHERE.items():
            x, y = zip(*(source.georeference.to_map(*at) for at in ring(*box)))
            x, y = transform("EPSG:32633", crs or "OGC:CRS84", x, y)
            features.append(feature([list(zip(x, y))], name))
        path = write(tmp_path / "a.geojson", features, **(named(crs) if crs else {}))
        np.testing.assert_array_equal(everything(PolygonSource(path, source)), expected())


@pytest.mark.parametrize("place", [None, Georeference("", (0.5, 0, 1000, 0, -0.5, 2000))])
def test_objects_that_predict_has_written_are_read(tmp_path, place):
    objects = [MapObject(box, number, 0.9) for number, box in enumerate(WHERE.values())]
    write_geojson(tmp_path / "a.geojson", objects, classes=list(WHERE), georeference=place)
    source = ArraySource(np.zeros((80, 120), np.uint8), georeference=place)
    np.testing.assert_array_equal(everything(PolygonSource(tmp_path / "a.geojson", source)), expected())


def test_features_that_are_left_out_are_counted(tmp_path):
    features = [
        feature([ring(0, 0, 9, 9)]),
        feature([ring(500, 0, 509, 9)]),
        feature([1, 2], kind="Point"),
        {"type": "Feature", "properties": None, "geometry": None},
        feature([ring(0, 0, 9, 9)], None, roof="red"),
        feature([[[0, 0], ["x", 1]]]),
        feature([]),
    ]
    labels = PolygonSource(write(tmp_path / "a.geojson", features), IMAGE)
    assert labels.notes == [
        "1 feature is left out: Point, not a polygon",
        "2 features are left out: damaged positions",
        "1 feature is left out: no geometry, not a polygon",
        "1 feature is left out: outside of the image",
        "1 feature is left out: without the property class",
    ]
    assert everything(labels).sum() == 81


@pytest.mark.parametrize(
    ("features", "members", "words"),
    [
        ([], {}, ["no polygon with the property class"]),
        ([feature([ring(500, 0, 509, 9)])], {}, ["No polygon of", "of one place"]),
        ([feature([ring(0, 0, 9, 9)])], named("EPSG:32633"), ["EPSG:32633", "no georeference", "give pixels"]),
        ([feature([ring(0, 0, 9, 9)], str(number)) for number in range(256)], {}, ["257 classes", "at most 255"]),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, features, members, words):
    with raises_user_error("a.geojson", *words):
        PolygonSource(write(tmp_path / "a.geojson", features, **members), IMAGE)


@pytest.mark.parametrize("text", ["{", "[]", '{"type": "Point"}', '{"features": 1}'])
def test_other_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with raises_user_error("a.json", "give a"):
        PolygonSource(tmp_path / "a.json", IMAGE)
    with raises_user_error("missing.json", "check the path"):
        PolygonSource(tmp_path / "missing.json", IMAGE)


def test_a_crs_that_is_missing_unknown_or_not_of_the_image_is_named(tmp_path):
    features = [feature([ring(400000, 4999980, 400010, 4999990)])]
    with open_source(write_geotiff(tmp_path / "a.tif", noise(80, 120, 3, "uint8", 250))) as image:
        with raises_user_error("longitude and latitude, but (400000, ", "EPSG:NUMBER"):
            PolygonSource(write(tmp_path / "a.geojson", features), image)
        with raises_user_error("unknown CRS EPSG:1"):
            PolygonSource(write(tmp_path / "a.geojson", features, **named("EPSG:1")), image)
    placed = ArraySource(np.zeros((9, 9), np.uint8), georeference=Georeference("", (1, 0, 0, 0, 1, 0)))
    with raises_user_error("positions in EPSG:4326", "does not name a CRS"):
        PolygonSource(write(tmp_path / "a.geojson", features, **named("EPSG:4326")), placed)
