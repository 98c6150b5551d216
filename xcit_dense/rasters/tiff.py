"""TIFFs: ordinary ones through rasterio, and those of microscopes (OME-TIFF, ImageJ) through tifffile and zarr."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from xcit_dense.errors import MissingLibraryError
from xcit_dense.rasters import geo, memory
from xcit_dense.rasters.axes import AxesSource
from xcit_dense.rasters.gdal import INSTALL
from xcit_dense.rasters.source import RasterError, Source, reason_of
from xcit_dense.rasters.zarr_array import import_zarr

_PLAIN = ("YX", "YXS", "SYX")  # the axes of an image that GDAL reads as one image
_ORIENTATION = 274  # TIFF's tag


def open_file(path: Path) -> Source:
    """Opens a TIFF.

    Args:
        path: The file.

    Returns:
        The opened image. A TIFF that is stored turned is turned upright in memory, as in training.

    Raises:
        RasterError: The file is not readable, or has more axes than rows, columns and bands.
        MissingLibraryError: tifffile, zarr or rasterio is not installed.
    """
    try:
        from tifffile import TiffFile
    except ImportError as error:
        raise MissingLibraryError(f"TIFFs are read with tifffile, which is not installed; {INSTALL}.") from error
    try:
        file = TiffFile(path)
        series = file.series[0]
        page: Any = file.pages[0]
        orientation = page.tags.valueof(_ORIENTATION, 1)
    except Exception as error:  # a damaged file, in which any value is possible
        raise RasterError(f"{path} is not a readable image ({reason_of(error)}); give an intact file.") from error
    if orientation in range(2, 9):
        file.close()
        return memory.open_file(path)
    if series.axes in _PLAIN:
        file.close()
        return geo.open_file(path)
    with ExitStack() as stack:
        stack.callback(file.close)
        zarr = import_zarr()
        # One chunk is decoded at a time by default, so the window of a tiled file needs little memory.
        levels = [zarr.open(series.aszarr(level=number), mode="r") for number in range(len(series.levels))]
        source = AxesSource(path, levels, series.axes, close=file.close)
        stack.pop_all()  # the source closes the file
    return source
