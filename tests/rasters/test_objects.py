"""Objects as GeoJSON: opened with rasterio's and shapely's readers."""

import json

import numpy as np
import pytest
from shapely.geometry import box, shape

from xcit_dense.errors import UserError
from xcit_dense.rasters.objects import MapObject, write_geojson
from xcit_dense.rasters.source import Georeference

rasterio = pytest.importorskip("rasterio", reason="the extra [large] is not installed")

CLASSES = ["tree", "house"]


def read(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    return content, [shape(feature["geometry"]) for feature in content["features"]]


def test_boxes_without_a_place_are_in_pixels(tmp_path):
    objects = [MapObject((10, 20, 30, 60), 1, 0.75), MapObject((0, 0, 5, 5), 0, 0.5)]
    assert write_geojson(tmp_path / "a.geojson", objects, classes=CLASSES) == 2
    content, shapes = read(tmp_path / "a.geojson")
    assert content["positions"] == "pixels"
    assert "crs" not in content
    assert shapes[0].equals(box(10, 20, 30, 60))
    assert content["features"][0]["properties"] == {"class": "house", "class_id": 1, "score": 0.75}


def test_objects_of_a_map_have_its_coordinates_and_its_crs(tmp_path):
    place = Georeference(rasterio.CRS.from_epsg(32633).to_wkt(), (0.5, 0, 400000, 0, -0.5, 5000000))
    write_geojson(tmp_path / "a.geojson", [MapObject((10, 20, 30, 60), 1, 0.75)], classes=CLASSES, georeference=place)
    content, shapes = read(tmp_path / "a.geojson")
    assert content["positions"] == "map"
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert shapes[0].bounds == (400005, 4999970, 400015, 4999990)


def test_a_rotated_transform_moves_every_corner(tmp_path):
    place = Georeference("", (0, 2, 100, 3, 0, 200))
    write_geojson(tmp_path / "a.geojson", [MapObject((1, 2, 3, 5), 0, 1)], classes=CLASSES, georeference=place)
    content, shapes = read(tmp_path / "a.geojson")
    assert content["positions"] == "map"
    assert shapes[0].bounds == (104, 203, 110, 209)


def test_a_mask_is_a_polygon_with_holes_at_its_place_in_the_image(tmp_path):
    mask = np.ones((20, 30), bool)
    mask[5:15, 10:20] = False
    write_geojson(tmp_path / "a.geojson", [MapObject((0, 0, 1, 1), 0, 1, mask, corner=(100, 200))], classes=CLASSES)
    _, [polygon] = read(tmp_path / "a.geojson")
    assert polygon.is_valid
    assert polygon.bounds == (200, 100, 230, 120)
    assert polygon.area == 500
    assert len(polygon.interiors) == 1


def test_a_mask_of_several_parts_is_one_object_and_outlines_are_valid(tmp_path):
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 40)) > 0.5 for _ in range(5)]
    masks[0] = np.kron(np.eye(4, dtype=bool), np.ones((10, 10), bool))  # squares that touch at corners
    objects = [MapObject((0, 0, 40, 40), 0, 1, mask) for mask in masks]
    assert write_geojson(tmp_path / "a.geojson", objects, classes=CLASSES) == 5
    _, shapes = read(tmp_path / "a.geojson")
    assert all(outline.is_valid for outline in shapes)
    assert shapes[0].geom_type == "MultiPolygon"
    assert shapes[0].area == 400


def test_numbers_that_are_not_finite_are_an_error_and_leave_no_file(tmp_path):
    for fault in (MapObject((0, 0, 1, float("nan")), 0, 1), MapObject((0, 0, 1, 1), 0, float("inf"))):
        with pytest.raises(UserError, match="is not finite"):
            write_geojson(tmp_path / "a.geojson", [fault], classes=CLASSES)
    assert not list(tmp_path.iterdir())


def test_no_objects_give_an_empty_collection(tmp_path):
    assert write_geojson(tmp_path / "a.geojson", [], classes=CLASSES) == 0
    assert read(tmp_path / "a.geojson")[0]["features"] == []
