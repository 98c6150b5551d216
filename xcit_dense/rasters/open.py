"""The table of readers, and the function that opens an image of any size."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from xcit_dense.rasters.source import RasterError, Source

_MEMORY = "memory"
READERS = {
    **dict.fromkeys((".tif", ".tiff", ".gtif", ".btf", ".tf8"), "tiff"),
    **dict.fromkeys((".jp2", ".j2k", ".vrt", ".img"), "geo"),
    ".zarr": "zarr_array",
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".svslide", ".bif", ".vms", ".vmu"), "slide"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm"), _MEMORY),
}
"""The module of :mod:`xcit_dense.rasters` that reads each suffix. Each module has a function ``open_file(path)``."""


def open_source(path: str | Path) -> Source:
    """Opens an image of any size. The suffix decides how, and for TIFFs the content.

    Args:
        path: The file, or the directory of a Zarr array.

    Returns:
        The opened image. Only images of the formats PNG, JPEG, WebP, BMP and PPM are completely in memory.

    Raises:
        RasterError: The file does not exist, is not a readable image, or has another suffix.
        MissingLibraryError: A library that reads the format is not installed.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> from xcit_dense.rasters.window import Window
        >>> write_image(Path("field.png"), np.full((20, 30, 3), 7, np.uint8))
        >>> with open_source("field.png") as source:
        ...     print(source.read(Window(0, 0, 2, 4)).shape)
        (2, 4, 3)
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise RasterError(f"{path} cannot be read by windows; the suffixes are {' '.join(READERS)}.")
    if not path.exists():
        raise RasterError(f"No image at {path}; check the path.")
    source: Source = import_module(f"xcit_dense.rasters.{reader}").open_file(path)
    return source


def is_large(path: str | Path) -> bool:
    """Returns whether :func:`open_source` reads a file by windows, so that its size does not matter.

    Args:
        path: The file. Only the suffix counts.

    Example:
        >>> is_large("town.tif"), is_large("photo.png")
        (True, False)
    """
    return READERS.get(Path(path).suffix.lower(), _MEMORY) != _MEMORY
