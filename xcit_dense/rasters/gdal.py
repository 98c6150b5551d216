"""rasterio, with bounded memory and without warnings about images that have no place on the Earth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xcit_dense.errors import MissingLibraryError
from xcit_dense.rasters.source import Georeference

INSTALL = "write pip install 'xcit-dense[large]'"
"""The remedy where a library of this folder is missing."""

_CACHE = 64 << 20  # bytes of decoded blocks; the default is a share of the memory, so usage would grow with the image


@contextmanager
def rasterio_env() -> Iterator[Any]:
    """Imports rasterio and sets GDAL's options inside the block.

    Yields:
        The module ``rasterio``.

    Raises:
        MissingLibraryError: rasterio is not installed.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        raise MissingLibraryError(
            f"Large images are read and written with rasterio, which is not installed; {INSTALL}."
        ) from error
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=_CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield rasterio


def georeference_of(file: Any) -> Georeference | None:
    """Reads the place of an image.

    Args:
        file: A data set that rasterio has opened.

    Returns:
        The place. None if the file has neither a CRS nor a transform.
    """
    if file.crs is None and file.transform.is_identity:
        return None
    crs = file.crs.to_wkt() if file.crs else ""
    a, b, c, d, e, f = tuple(file.transform)[:6]
    return Georeference(crs, (a, b, c, d, e, f))


def profile_of(georeference: Georeference | None) -> dict[str, Any]:
    """Makes the arguments of ``rasterio.open`` for a place.

    Args:
        georeference: The place, or None.
    """
    if georeference is None:
        return {}
    from rasterio import Affine

    profile: dict[str, Any] = {"transform": Affine(*georeference.transform)}
    return {**profile, "crs": georeference.crs} if georeference.crs else profile
