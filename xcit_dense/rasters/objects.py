"""Objects of an image of any size as GeoJSON, in map coordinates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.gdal import rasterio_env
from xcit_dense.rasters.source import Georeference
from xcit_dense.utils.files import atomic_write

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

_TOLERANCE = 0.5  # pixels; outlines of masks lose the steps between pixels


@dataclass(frozen=True)
class MapObject:
    """An object in an image of any size.

    Attributes:
        box: The corners x1, y1, x2, y2 in pixels of the image.
        label: The index of the class.
        score: From 0 to 1.
        mask: (h, w), bool: the part of the image that contains the object. None if only the box is known.
        corner: The row and the column of the mask's first pixel in the image.

    Example:
        >>> MapObject((10, 20, 12, 23), label=1, score=0.75).outline().bounds
        (10.0, 20.0, 12.0, 23.0)
    """

    box: tuple[float, float, float, float]
    label: int
    score: float
    mask: npt.NDArray[np.bool_] | None = None
    corner: tuple[int, int] = (0, 0)

    def outline(self) -> BaseGeometry:
        """Converts the object to a polygon, or several polygons if the mask has several parts.

        Returns:
            The outline of the mask without the steps between pixels, with holes; or the box. In pixels of the image:
            x to the right, y down.

        Raises:
            MissingLibraryError: rasterio is not installed, and the object has a mask.
        """
        from shapely import box, make_valid, union_all
        from shapely.affinity import translate
        from shapely.geometry import shape

        if self.mask is None or not self.mask.any():
            return box(*self.box)
        with rasterio_env():
            from rasterio.features import shapes

            found = shapes(self.mask.astype(np.uint8), mask=self.mask)
            steps = union_all([shape(part) for part, _ in found])
        outline = make_valid(steps.simplify(_TOLERANCE))
        row, column = self.corner
        return translate(outline, column, row)


def write_geojson(
    path: str | Path,
    objects: Iterable[MapObject],
    *,
    classes: Sequence[str],
    georeference: Georeference | None = None,
) -> int:
    """Writes objects as GeoJSON, atomically and one object at a time.

    RFC 7946 allows only longitude and latitude. This function keeps the CRS of the image, so that positions stay exact,
    and names the CRS in the member ``crs``, which GDAL and QGIS read. Without a georeference, the
    coordinates are pixels: x to the right, and y down. The member ``positions`` of the file is then ``"pixels"``,
    and otherwise ``"map"``.

    Args:
        path: The file.
        objects: The objects.
        classes: The name of each class.
        georeference: The place of the image.

    Returns:
        The number of objects. Each has the properties ``class``, ``class_id`` (from 0) and ``score``.

    Raises:
        UserError: A score or a position is not finite, or the file cannot be written.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> found = [MapObject((10, 20, 12, 23), label=1, score=0.75)]
        >>> write_geojson("houses.geojson", found, classes=["tree", "house"])
        1
        >>> json.loads(Path("houses.geojson").read_text())["features"][0]["properties"]
        {'class': 'house', 'class_id': 1, 'score': 0.75}
    """
    count = 0
    header = {"type": "FeatureCollection", **_place(georeference)}
    with atomic_write(Path(path)) as part, part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header, ensure_ascii=False)[:-1] + ', "features": [')
        for one in objects:
            feature = _feature(one, classes, georeference)
            file.write((",\n" if count else "\n") + json.dumps(feature, ensure_ascii=False))
            count += 1
        file.write("\n]}\n")
    return count


def _place(georeference: Georeference | None) -> dict[str, Any]:
    """The members of a GeoJSON file that say what its coordinates mean."""
    if georeference is None:
        return {"positions": "pixels"}
    if not georeference.crs:
        return {"positions": "map"}
    with rasterio_env() as rasterio:
        authority = rasterio.CRS.from_wkt(georeference.crs).to_authority()
    if authority is None:
        # A CRS without a number. GDAL does not read WKT in GeoJSON, but a reader finds the CRS.
        return {"positions": "map", "crs_wkt": georeference.crs}
    name = f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"
    return {"positions": "map", "crs": {"type": "name", "properties": {"name": name}}}


def _feature(one: MapObject, classes: Sequence[str], georeference: Georeference | None) -> dict[str, Any]:
    from shapely.affinity import affine_transform
    from shapely.geometry import mapping

    if not np.isfinite([*one.box, one.score]).all():
        raise UserError(f"The object {one.box} with the score {one.score} is not finite; check the weights.")
    outline = one.outline()
    if georeference is not None:
        a, b, c, d, e, f = georeference.transform
        outline = affine_transform(outline, [a, b, d, e, c, f])
    properties = {"class": classes[one.label], "class_id": one.label, "score": one.score}
    return {"type": "Feature", "properties": properties, "geometry": mapping(outline)}
