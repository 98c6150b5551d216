"""Label maps and class scores of any size, written for programs of maps and of microscopes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.gdal import rasterio_env
from xcit_dense.rasters.geotiff import writing
from xcit_dense.rasters.open import is_large
from xcit_dense.rasters.source import Georeference
from xcit_dense.rasters.zarr_array import import_zarr
from xcit_dense.rasters.zarr_writer import write_zarr
from xcit_dense.structures import Colour
from xcit_dense.utils.files import atomic_write
from xcit_dense.visualization.draw import make_palette

NAMES = "CLASS_NAMES"
"""The tag of a GeoTIFF, and the attribute of a Zarr array, that contains the class names. In the tag they are JSON."""

_SUFFIXES = (".tif", ".tiff", ".zarr")


def write_label_map(
    path: str | Path,
    labels: npt.NDArray[Any],
    *,
    classes: Sequence[str],
    palette: Sequence[Colour] | None = None,
    georeference: Georeference | None = None,
    nodata: int | None = None,
) -> None:
    """Writes a label map atomically, block by block.

    A GeoTIFF is tiled and compressed, and has a colour table, overviews, and the class names as the tag
    :data:`NAMES`. GDAL and QGIS find the names also in the small file ``NAME.tif.aux.xml``.

    Args:
        path: The file, ``.tif``, or the directory, ``.zarr``.
        labels: (H, W), uint8 or uint16: class indices. May be memory-mapped.
        classes: The name of each class.
        palette: The colour of each class. By default :func:`xcit_dense.visualization.draw.make_palette`.
        georeference: The place of the image.
        nodata: The value of pixels without data. Programs show these pixels as transparent.

    Raises:
        UserError: The labels have another type or shape, the suffix is another one, or the file cannot be written.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> labels = np.zeros((600, 700), np.uint8)
        >>> write_label_map("town.tif", labels, classes=["field", "house"], nodata=255)
        >>> from xcit_dense.rasters.open import open_source
        >>> open_source("town.tif")
        GeoSource(town.tif: 600 rows, 700 columns, 1 band of uint8)
    """
    path = Path(path)
    _check_suffix(path)
    if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"Labels of the shape {labels.shape} and the type {labels.dtype}; give (H, W), uint8 or uint16."
        )
    palette = palette or make_palette(len(classes))
    if path.suffix.lower() == ".zarr":
        write_zarr(path, labels, georeference, nodata, {NAMES: list(classes), "palette": [list(c) for c in palette]})
        return
    colours = {index: (*colour, 255) for index, colour in enumerate(palette)}
    if nodata is not None:
        colours[nodata] = (0, 0, 0, 0)
    with writing(path, labels, georeference, nodata, "mode", photometric="palette") as file:
        file.write_colormap(1, colours)
        file.update_tags(1, **{NAMES: json.dumps(list(classes))})
    _write_names(path, classes)


def write_scores(
    path: str | Path,
    scores: npt.NDArray[Any],
    *,
    classes: Sequence[str],
    georeference: Georeference | None = None,
) -> None:
    """Writes class scores atomically, block by block. Each class is a band with the name of the class.

    Args:
        path: The file, ``.tif``, or the directory, ``.zarr``.
        scores: (H, W, C): float16 or float32 from 0 to 1, or uint8 from 0 to 255. May be memory-mapped. GeoTIFFs have
            float16 as floating-point numbers of 16 bits, which readers return as float32.
        classes: The name of each class.
        georeference: The place of the image.

    Raises:
        UserError: The scores have another type or shape, the suffix is another one, or the file cannot be written.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> write_scores("scores.tif", np.full((20, 30, 2), 0.5, np.float16), classes=["field", "house"])
        >>> from xcit_dense.rasters.open import open_source
        >>> open_source("scores.tif")
        GeoSource(scores.tif: 20 rows, 30 columns, 2 bands of float32)
    """
    path = Path(path)
    _check_suffix(path)
    if scores.ndim != 3 or scores.shape[2] != len(classes) or scores.dtype not in (np.float16, np.float32, np.uint8):
        raise UserError(
            f"Scores of the shape {scores.shape} and the type {scores.dtype} for {len(classes)} classes; give "
            "(H, W, C), float16, float32 or uint8."
        )
    if path.suffix.lower() == ".zarr":
        write_zarr(path, scores, georeference, None, {NAMES: list(classes)})
        return
    options: dict[str, Any] = {"interleave": "band"}
    if scores.dtype == np.float16:
        options |= {"dtype": "float32", "nbits": 16}
    with writing(path, scores, georeference, None, "average", **options) as file:
        file.descriptions = tuple(classes)


def read_names(path: str | Path) -> list[str]:
    """Reads the class names that a label map contains.

    Args:
        path: A file that :func:`write_label_map` has written, or another image.

    Returns:
        The names. Empty if the file does not have names.

    Raises:
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> write_label_map("named.tif", np.zeros((8, 8), np.uint8), classes=["field", "house"])
        >>> read_names("named.tif")
        ['field', 'house']
    """
    path = Path(path)
    if path.suffix.lower() == ".zarr":
        return list(import_zarr().open(str(path), mode="r").attrs.get(NAMES, []))
    if not is_large(path):
        return []
    with rasterio_env() as rasterio, rasterio.open(path) as file:
        return list(json.loads(file.tags(1).get(NAMES, "[]")))


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{path.name!r} cannot be written; end the name with .tif or .zarr.")


def _write_names(path: Path, classes: Sequence[str]) -> None:
    """Writes the class names where GDAL looks for them. GeoTIFFs do not have a place for them."""
    root = ElementTree.Element("PAMDataset")
    names = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in classes:
        ElementTree.SubElement(names, "Category").text = name
    with atomic_write(path.with_name(path.name + ".aux.xml")) as part:
        ElementTree.ElementTree(root).write(part, encoding="utf-8")
