"""Zarr arrays written block by block from arrays in memory or on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.source import Georeference
from xcit_dense.rasters.window import blocks_of
from xcit_dense.rasters.zarr_array import import_zarr

_CHUNK = 1024


def write_zarr(
    path: Path,
    array: npt.NDArray[Any],
    georeference: Georeference | None,
    nodata: float | None,
    attributes: dict[str, Any],
) -> None:
    """Writes a compressed Zarr array in chunks. The directory appears when all chunks are written.

    Args:
        path: The directory. An earlier Zarr array there is replaced.
        array: (H, W) or (H, W, C).
        georeference: The place, written as the attributes ``_CRS`` (as GDAL does) and ``transform``.
        nodata: The value of pixels without data, written as an attribute.
        attributes: Further attributes.

    Raises:
        UserError: The directory cannot be written, or is not a Zarr array.
        MissingLibraryError: zarr is not installed.
    """
    zarr = import_zarr()
    attributes = {"_ARRAY_DIMENSIONS": ["y", "x", "c"][: array.ndim], **attributes}
    if georeference is not None:
        attributes |= {"_CRS": {"wkt": georeference.crs}, "transform": list(georeference.transform)}
    if nodata is not None:
        attributes["nodata"] = nodata
    is_zarr = any((path / name).exists() for name in (".zarray", "zarr.json"))
    if path.exists() and not is_zarr:
        raise UserError(f"{path} exists and is not a Zarr array; remove it, or name another path.")
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        chunks = (_CHUNK, _CHUNK, 1)[: array.ndim]
        file = zarr.open(str(part), mode="w", shape=array.shape, chunks=chunks, dtype=array.dtype)
        for block in blocks_of(array.shape[0], array.shape[1], _CHUNK):
            file[block.slices] = np.asarray(array[block.slices])
        file.attrs.update(attributes)
        if is_zarr:
            shutil.rmtree(path)
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; free some space, or name another path."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
