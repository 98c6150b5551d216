"""Zarr arrays, and groups with the metadata of OME-Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xcit_dense.errors import MissingLibraryError
from xcit_dense.rasters.axes import AxesSource
from xcit_dense.rasters.gdal import INSTALL
from xcit_dense.rasters.source import Georeference, RasterError, reason_of


def open_file(path: Path) -> AxesSource:
    """Opens a Zarr array, or the first image of an OME-Zarr group.

    Args:
        path: The directory.

    Returns:
        The opened image. The names of the axes decide which axis has the bands. Without names, the last of three axes
        has the bands if it is not longer than the first axis.

    Raises:
        RasterError: The directory is not a readable Zarr array, or has more axes than rows, columns and bands.
        MissingLibraryError: zarr is not installed.
    """
    zarr = import_zarr()
    try:
        opened = zarr.open(str(path), mode="r")
        levels, axes = _levels(path, opened) if hasattr(opened, "group_keys") else ([opened], _axes(opened))
    except RasterError:
        raise
    except Exception as error:  # a damaged file, in which any value is possible
        raise RasterError(f"{path} is not a readable Zarr array ({reason_of(error)}); give an intact one.") from error
    transform = opened.attrs.get("transform")
    crs = dict(opened.attrs.get("_CRS", {})).get("wkt", "")
    place = Georeference(crs, tuple(transform)) if transform else None
    return AxesSource(path, levels, axes, place, opened.attrs.get("nodata"))


def import_zarr() -> Any:
    """Imports zarr.

    Returns:
        The module.

    Raises:
        MissingLibraryError: zarr is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingLibraryError(
            f"Zarr arrays are read and written with zarr, which is not installed; {INSTALL}."
        ) from error
    return zarr


def _levels(path: Path, group: Any) -> tuple[list[Any], str]:
    """Returns the arrays of OME-Zarr's first image and their axes."""
    attributes = dict(group.attrs)
    images = attributes.get("ome", attributes).get("multiscales")
    if not images:
        raise RasterError(
            f"{path} is a Zarr group without the metadata of OME-Zarr; give one of its arrays, for example "
            f"{path}/NAME.zarr."
        )
    image = images[0]
    levels = [group[level["path"]] for level in image["datasets"]]
    # Before version 0.4, the axes are names or are missing, and then are these five.
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", "tczyx")]
    return levels, "".join(name[0].upper() for name in names)


def _axes(array: Any) -> str:
    """Finds the axes of an array by their names, which zarr 3 and xarray write."""
    names = getattr(array.metadata, "dimension_names", None) if hasattr(array, "metadata") else None
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if names and all(names):
        return "".join(str(name)[0].upper() for name in names)
    if array.ndim == 3:
        return "YXC" if array.shape[2] <= array.shape[0] else "CYX"
    return "YX"
