"""GeoTIFFs written block by block from arrays in memory or on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.gdal import profile_of, rasterio_env
from xcit_dense.rasters.source import Georeference, reason_of
from xcit_dense.rasters.window import blocks_of
from xcit_dense.utils.files import atomic_write

BLOCK = 2048
"""The height and width of a block that is in memory at once."""

_TILE = 512
_SMALLEST = 512  # pixels of the longer side of the smallest overview


@contextmanager
def writing(
    path: Path,
    array: npt.NDArray[Any],
    georeference: Georeference | None,
    nodata: float | None,
    resampling: str,
    **options: Any,
) -> Iterator[Any]:
    """Writes a tiled, compressed GeoTIFF with overviews, atomically. A file of more than 4 GB becomes a BigTIFF.

    Args:
        path: The file.
        array: (H, W) or (H, W, C).
        georeference: The place on the Earth.
        nodata: The value of pixels without data.
        resampling: How overviews are made, a name of rasterio.
        **options: Options of GDAL's GeoTIFF driver.

    Yields:
        The data set of rasterio, for tags and colours. The block comes before the pixels are written.

    Raises:
        UserError: The file cannot be written.
        MissingLibraryError: rasterio is not installed.
    """
    height, width = array.shape[:2]
    bands = array[..., None] if array.ndim == 2 else array
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": bands.shape[2],
        "dtype": array.dtype,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "compress": "deflate",
        "zlevel": 6,
        "bigtiff": "if_safer",
        **profile_of(georeference),
        **options,
    }
    with atomic_write(path) as part, rasterio_env() as rasterio:
        try:
            with rasterio.open(part, "w", **profile) as file:
                yield file
                for block in blocks_of(height, width, BLOCK):
                    rows, columns = block.slices
                    pixels = np.moveaxis(np.asarray(bands[block.slices]), 2, 0)  # (h, w, C) -> (C, h, w)
                    file.write(pixels, window=((rows.start, rows.stop), (columns.start, columns.stop)))
            factors = _factors(max(height, width))
            if factors:
                with rasterio.open(part, "r+") as file:
                    file.build_overviews(factors, getattr(rasterio.enums.Resampling, resampling))
            _check(rasterio, part)
        except rasterio.errors.RasterioError as error:
            raise UserError(
                f"{path} cannot be written ({reason_of(error)}); free some space, or name another path."
            ) from error
        # The content is on the disk before the file gets its name.
        with part.open("rb") as opened:
            os.fsync(opened.fileno())


def _factors(longest: int) -> list[int]:
    """The reductions of the overviews: 2, 4, 8 and so on."""
    factors: list[int] = []
    while longest // 2 ** len(factors) > _SMALLEST:
        factors.append(2 ** (len(factors) + 1))
    return factors


def _check(rasterio: Any, path: Path) -> None:
    """Reads the last block. GDAL does not report every failed write of a full disk."""
    with rasterio.open(path) as file:
        file.read(window=((file.height - 1, file.height), (file.width - 1, file.width)))
