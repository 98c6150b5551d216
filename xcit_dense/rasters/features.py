"""Polygons with classes of a GeoJSON file, moved to the pixels of an image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError, did_you_mean
from xcit_dense.rasters.gdal import INSTALL, rasterio_env
from xcit_dense.rasters.source import Georeference, RasterError, Source, reason_of

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

Geometries = npt.NDArray[Any]
"""Geometries of shapely, (N,)."""

_LONGITUDE_LATITUDE = "OGC:CRS84"  # the CRS of a GeoJSON file that does not name one, by RFC 7946


@dataclass(frozen=True)
class Polygons:
    """The polygons of a file that are in an image, in the order of the file.

    Attributes:
        outlines: The polygons, in pixels of the image: x to the right, and y down.
        names: The class of each polygon.
        classes: The classes of all polygons in the file, sorted: numbers by their values, and other names as texts.
        notes: Sentences about features that are left out.
    """

    outlines: Sequence[BaseGeometry]
    names: Sequence[str]
    classes: Sequence[str]
    notes: Sequence[str]


def read_polygons(path: str | Path, image: Source, class_property: str = "class") -> Polygons:
    """Reads polygons with classes.

    Positions are map coordinates in the CRS that the file names in the member ``crs``. Without a name, they are
    longitude and latitude, as in RFC 7946. They are pixels, x to the right and y down, if neither the image has a
    georeference nor the file names a CRS, or if the member ``positions`` of the file is ``"pixels"``, which
    :func:`xcit_dense.rasters.objects.write_geojson` writes.

    Args:
        path: The GeoJSON file.
        image: The image.
        class_property: The property of the features that names the class.

    Returns:
        The polygons.

    Raises:
        RasterError: The file is not readable, its positions do not fit the image, or no polygon is in the image.
        UserError: No feature has the property.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> from xcit_dense.rasters.array import ArraySource
        >>> square = {"type": "Polygon", "coordinates": [[[1, 0], [3, 0], [3, 2], [1, 2], [1, 0]]]}
        >>> feature = {"type": "Feature", "properties": {"class": "house"}, "geometry": square}
        >>> _ = Path("houses.geojson").write_text(json.dumps({"features": [feature]}))
        >>> found = read_polygons("houses.geojson", ArraySource(np.zeros((3, 4), np.uint8)))
        >>> found.classes, found.outlines[0].bounds
        (['house'], (1.0, 0.0, 3.0, 2.0))
    """
    path = Path(path)
    try:
        import shapely  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(f"Polygons are read with shapely, which is not installed; {INSTALL}.") from error
    content = _read_features(path)
    move = _to_pixels(path, content, image)
    left_out: Counter[str] = Counter()
    named = _named_polygons(content["features"], class_property, left_out)
    if not named:
        raise _nothing_named(path, content["features"], class_property)
    names = {name for name, _ in named}
    moved = move(np.array([polygon for _, polygon in named], object))
    touching = _touches(moved, image.height, image.width)
    left_out["outside of the image"] = int((~touching).sum())
    if not touching.any():
        raise RasterError(
            f"No polygon of {path} is inside {image.path}; check that both are of one place, and that the member crs "
            "of the file names the CRS of its positions."
        )
    notes = [
        f"{count} {'feature is' if count == 1 else 'features are'} left out: {reason}"
        for reason, count in sorted(left_out.items())
        if count
    ]
    classes = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    inside = np.flatnonzero(touching).tolist()
    return Polygons([moved[index] for index in inside], [named[index][0] for index in inside], classes, notes)


def _read_features(path: Path) -> dict[str, Any]:
    """Reads a file, and checks that it is a collection of features."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RasterError(f"{path} cannot be read: {error.strerror or error}; check the path.") from error
    except ValueError as error:
        raise RasterError(f"{path} is not JSON ({reason_of(error)}); give an intact GeoJSON file.") from error
    if not isinstance(content, dict) or not isinstance(content.get("features"), list):
        raise RasterError(f"{path} does not have the list features; give a FeatureCollection of GeoJSON.")
    return content


def _named_polygons(
    features: Sequence[Any], class_property: str, left_out: Counter[str]
) -> list[tuple[str, BaseGeometry]]:
    """The class and the geometry of each polygon. Counts the other features."""
    from shapely.geometry import shape

    named = []
    for feature in features:
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        kind = geometry.get("type") if isinstance(geometry, dict) else "no geometry"
        if kind not in ("Polygon", "MultiPolygon"):
            left_out[f"{kind}, not a polygon"] += 1
            continue
        name = (feature.get("properties") or {}).get(class_property)
        if name is None:
            left_out[f"without the property {class_property}"] += 1
            continue
        try:
            polygon = shape(geometry)
        except Exception:  # positions that are not numbers, or too few of them
            left_out["damaged positions"] += 1
            continue
        if polygon.is_empty or not np.isfinite(polygon.bounds).all():
            left_out["damaged positions"] += 1
            continue
        named.append((str(name), polygon))
    return named


def _nothing_named(path: Path, features: Sequence[Any], class_property: str) -> UserError:
    """The error for a file of which no feature is a polygon with a class."""
    properties = {name for one in features if isinstance(one, dict) for name in one.get("properties") or {}}
    if properties and class_property not in properties:
        sentences = did_you_mean(f"property of the features in {path}", class_property, sorted(properties))
        return UserError(f"{sentences} Write --class-property NAME.")
    return RasterError(f"{path} has no polygon with the property {class_property}; give polygons with classes.")


def _to_pixels(path: Path, content: Mapping[str, Any], image: Source) -> Callable[[Geometries], Geometries]:
    """The function that moves the geometries of a file to the pixels of an image, all at once."""
    from shapely import transform

    place = image.georeference
    crs = _name_of_crs(content)
    if content.get("positions") == "pixels" or (place is None and crs is None):
        return lambda polygons: polygons
    if place is None:
        raise RasterError(f"{path} has positions in {crs}, but {image.path} has no georeference; give pixels.")
    to_image = _reprojection(path, crs, content, place, image)
    a, b, c, d, e, f = place.transform
    inverse = np.linalg.inv([[a, b], [d, e]])

    def move(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (to_image(positions) - [c, f]) @ inverse.T  # (N, 2), x and y in pixels

    return lambda polygons: transform(polygons, move)


def _name_of_crs(content: Mapping[str, Any]) -> str | None:
    """The CRS that a file names, or None."""
    member = content.get("crs")
    properties = member.get("properties") if isinstance(member, dict) else None
    name = properties.get("name") if isinstance(properties, dict) else None
    return content.get("crs_wkt") if name is None else str(name)


def _reprojection(
    path: Path, crs: str | None, content: Mapping[str, Any], place: Georeference, image: Source
) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """The function that moves positions (N, 2) of a file to the CRS of an image."""
    if crs is None and (content.get("positions") == "map" or not place.crs):
        return lambda positions: positions
    if not place.crs:
        raise RasterError(
            f"{path} has positions in {crs}, but {image.path} does not name a CRS; remove the member crs if both have "
            "one CRS."
        )
    with rasterio_env() as rasterio:
        try:
            source = rasterio.CRS.from_user_input(crs or _LONGITUDE_LATITUDE)
        except rasterio.errors.CRSError as error:
            raise RasterError(f"{path} names the unknown CRS {crs}; write for example EPSG:4326.") from error
        target = rasterio.CRS.from_wkt(place.crs)
    if source == target:
        return lambda positions: positions

    def move(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if crs is None and (np.abs(positions) > [180, 90]).any():
            x, y = positions[(np.abs(positions) > [180, 90]).any(axis=1)][0]
            raise RasterError(
                f"{path} does not name a CRS, so its positions are longitude and latitude, but ({x:g}, {y:g}) is not; "
                f'name the CRS: "crs": {{"type": "name", "properties": {{"name": "EPSG:NUMBER"}}}}.'
            )
        with rasterio_env():
            from rasterio.warp import transform

            try:
                x, y = transform(source, target, *positions.T)
            except Exception as error:  # PROJ has many errors
                raise RasterError(
                    f"{path} cannot be moved from {crs or 'longitude and latitude'} to the CRS of {image.path} "
                    f"({reason_of(error)}); give positions in the CRS of the image."
                ) from error
        return np.stack([x, y], axis=1)

    return move


def _touches(polygons: Geometries, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Whether the box of each polygon has pixels of the image, (N,)."""
    from shapely import bounds

    corners = bounds(polygons)  # (N, 4)
    left, top, right, bottom = corners.T
    # A position that does not exist in the CRS of the image is infinite.
    is_finite = np.isfinite(corners).all(axis=1)
    return is_finite & (left < width) & (right > 0) & (top < height) & (bottom > 0)
