"""PNG, JPEG and other formats without tiles: decoded once, into memory."""

from __future__ import annotations

from pathlib import Path

from xcit_dense.media.bands import read_bands, read_raster
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.source import RasterError

LIMIT = 150_000_000
"""The largest number of pixels of an image that is decoded into memory."""


def open_file(path: Path) -> ArraySource:
    """Reads an image into memory, upright by its EXIF orientation, as training with ``--bands`` does.

    Args:
        path: The file.

    Returns:
        The image. Pixels with the opacity 0 do not have data.

    Raises:
        ImageError: The file is not a readable image.
        RasterError: The image has more pixels than :data:`LIMIT`.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("field.png"), np.full((20, 30, 3), 7, np.uint8))
        >>> open_file(Path("field.png"))
        ArraySource(field.png: 20 rows, 30 columns, 3 bands of uint8)
    """
    header = read_raster(path)
    pixels = header.height * header.width
    if pixels > LIMIT:
        raise RasterError(
            f"{path} has {pixels:,} pixels, but {path.suffix} files of at most {LIMIT:,} pixels are decoded into "
            "memory; convert the image to a tiled GeoTIFF: rio convert IN.png OUT.tif --co TILED=YES."
        )
    array = read_bands(path, range(1, header.bands + 1))
    # The formats of this module have an opacity as the second or fourth band. TIFFs may have any band there.
    has_alpha = header.bands in (2, 4) and not path.suffix.lower().startswith(".tif")
    return ArraySource(array, path=path, has_alpha=has_alpha)
