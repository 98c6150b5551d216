"""GeoTIFF, COG, JPEG 2000 and other formats of GDAL, read through rasterio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.rasters.gdal import georeference_of, rasterio_env
from xcit_dense.rasters.source import RasterError, Source, reason_of, small_grid
from xcit_dense.rasters.window import Window

_LARGEST_BLOCK = 1 << 28  # bytes of a block, which GDAL decodes at once


class GeoSource(Source):
    """An image that rasterio has opened.

    Args:
        path: The file.

    Raises:
        RasterError: The file is not readable, has complex numbers, or is stored as one very large block.
        MissingLibraryError: rasterio is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with rasterio_env() as rasterio:
            try:
                self._file = rasterio.open(path)
            except rasterio.errors.RasterioError as error:
                raise RasterError(
                    f"{path} is not a readable image ({reason_of(error)}); give an intact file."
                ) from error
        self.height, self.width, self.bands = self._file.height, self._file.width, self._file.count
        if self.bands == 0:
            raise RasterError(f"{path} contains several images; give one image a file.")
        meanings = [meaning.name for meaning in self._file.colorinterp]
        self.colours = 0 if "palette" in meanings else self.bands - meanings.count("alpha")
        self.dtype = np.result_type(*self._file.dtypes)
        if self.dtype.kind not in "buif":
            raise RasterError(f"{path} has values of the type {self.dtype}; give integers or floating-point numbers.")
        self.georeference = georeference_of(self._file)
        self.nodata = self._file.nodata
        self._all_valid = all("all_valid" in [flag.name for flag in flags] for flags in self._file.mask_flag_enums)
        self._check_blocks()

    def read_small(self, longest: int, bands: Sequence[int] = ()) -> npt.NDArray[Any]:
        """Reads the complete image at a reduced size, from the file's overviews if there are any.

        Args:
            longest: As for :meth:`.Source.read_small`.
            bands: As for :meth:`.Source.read_small`.

        Returns:
            As for :meth:`.Source.read_small`.

        Raises:
            RasterError: As for :meth:`.Source.read_small`.
        """
        rows, columns = small_grid(self.height, self.width, longest)
        bands = list(bands) or list(range(1, self.bands + 1))
        with rasterio_env():
            try:
                planes = self._file.read(bands, out_shape=(len(bands), len(rows), len(columns)))
            except Exception as error:  # as in read
                raise self._unreadable(Window(0, 0, self.height, self.width), error) from error
        return np.ascontiguousarray(np.moveaxis(planes, 0, 2))  # (N, h, w) -> (h, w, N)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        with rasterio_env():
            planes = self._file.read(bands, window=_window(window))
        return np.moveaxis(planes, 0, 2)  # (N, h, w) -> (h, w, N)

    def _read_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        if self._all_valid:
            return np.ones((window.height, window.width), np.bool_)
        with rasterio_env():
            return self._file.dataset_mask(window=_window(window)) > 0

    def _check_blocks(self) -> None:
        height, width = max(self._file.block_shapes)
        size = height * width * self.dtype.itemsize
        if size > _LARGEST_BLOCK:
            raise RasterError(
                f"{self.path} is stored in blocks of {height} x {width} pixels, which are decoded at once; convert it "
                "to tiles: rio convert IN.tif OUT.tif --co TILED=YES --co COMPRESS=DEFLATE --co BIGTIFF=IF_SAFER."
            )


def open_file(path: Path) -> GeoSource:
    """Opens an image through rasterio.

    Args:
        path: The file.

    Returns:
        The opened image. An alpha band counts as a band.

    Raises:
        RasterError: As for :class:`GeoSource`.
        MissingLibraryError: rasterio is not installed.
    """
    return GeoSource(path)


def _window(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    return (window.row, window.row + window.height), (window.column, window.column + window.width)
