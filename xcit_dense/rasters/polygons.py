"""The polygons of a GeoJSON file as a label map, which is drawn where a window is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.features import read_polygons
from xcit_dense.rasters.gdal import rasterio_env
from xcit_dense.rasters.source import Source
from xcit_dense.rasters.window import Window
from xcit_dense.structures import IGNORED

SUFFIXES = (".geojson", ".json")
"""The suffixes of files with polygons."""

BACKGROUND = "background"
"""The class of pixels outside of all polygons."""


class PolygonSource(Source):
    """The label map of an image, from polygons. A polygon covers the polygons before it in the file.

    A pixel belongs to a polygon if the centre of the pixel is inside. The complete label map is never in memory.

    Args:
        path: The GeoJSON file, as for :func:`xcit_dense.rasters.features.read_polygons`.
        image: The image.
        class_property: The property of the features that names the class.
        classes: The names of the classes, in the order of their indices. By default the names in the file, sorted.
        background: Whether pixels outside of all polygons are of the class :data:`BACKGROUND`, which becomes the first
            class unless ``classes`` contains it. Otherwise these pixels do not have a label.

    Attributes:
        classes: The names of the classes.
        notes: Sentences about features that are left out.

    Raises:
        UserError: As for :func:`xcit_dense.rasters.features.read_polygons`. Also: a class of the file is missing in
            ``classes``, or there are more than 255 classes.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> import json
        >>> from xcit_dense.rasters.array import ArraySource
        >>> square = {"type": "Polygon", "coordinates": [[[1, 0], [3, 0], [3, 2], [1, 2], [1, 0]]]}
        >>> feature = {"type": "Feature", "properties": {"class": "house"}, "geometry": square}
        >>> _ = Path("houses.geojson").write_text(json.dumps({"features": [feature]}))
        >>> labels = PolygonSource("houses.geojson", ArraySource(np.zeros((3, 4), np.uint8)))
        >>> labels.classes, labels.read(Window(0, 0, 3, 4))[..., 0].tolist()
        (['background', 'house'], [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    """

    bands = 1
    colours = 0
    dtype = np.dtype(np.uint8)
    nodata = float(IGNORED)

    def __init__(
        self,
        path: str | Path,
        image: Source,
        *,
        class_property: str = "class",
        classes: Sequence[str] | None = None,
        background: bool = True,
    ) -> None:
        polygons = read_polygons(path, image, class_property)
        self.path = Path(path)
        self.height, self.width, self.georeference = image.height, image.width, image.georeference
        self.classes = _order(self.path, polygons.classes, classes, background)
        self.notes = polygons.notes
        self._outside = self.classes.index(BACKGROUND) if background else IGNORED
        self._outlines = polygons.outlines
        self._labels = [self.classes.index(name) for name in polygons.names]

        from shapely import STRtree

        self._tree = STRtree(self._outlines)

    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        from shapely import box

        left, top, shape = window.column, window.row, (window.height, window.width)
        touching = self._tree.query(box(left, top, left + window.width, top + window.height))
        found = [(self._outlines[index], self._labels[index]) for index in sorted(touching.tolist())]
        labels = np.full(shape, self._outside, np.uint8)
        if found:
            with rasterio_env() as rasterio:
                from rasterio.features import rasterize

                rasterize(found, shape, out=labels, transform=rasterio.Affine.translation(left, top))
        return labels[..., None]  # (h, w) -> (h, w, 1)


def _order(path: Path, names: Sequence[str], classes: Sequence[str] | None, background: bool) -> list[str]:
    """The classes in the order of their indices."""
    found = list(names if classes is None else classes)
    missing = sorted(set(names) - set(found))
    if missing:
        raise UserError(
            f"{path} has the class {missing[0]!r}, but the classes are {', '.join(found)}; name all classes with "
            "--classes."
        )
    if background and (classes is None or BACKGROUND not in found):
        found = [BACKGROUND, *(name for name in found if name != BACKGROUND)]
    if len(found) > IGNORED:
        raise UserError(f"{path} has {len(found)} classes; a label map has at most {IGNORED}, so join some classes.")
    return found
