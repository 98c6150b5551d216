"""The bands of an image that a model of ordinary images gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xcit_dense.rasters.source import RasterError, Source


def choose_rgb(source: Source, remedy: str) -> Sequence[int]:
    """Chooses the bands that are red, green and blue.

    Args:
        source: The image.
        remedy: What the user can do with another image, for the error.

    Returns:
        The numbers of three bands, counted from 1. A grey band is repeated. An alpha band is left out.

    Raises:
        RasterError: The image does not have one or three bands of uint8.

    Example:
        >>> from xcit_dense.rasters.array import ArraySource
        >>> choose_rgb(ArraySource(np.full((8, 8), 7, np.uint8)), "convert the image")
        (1, 1, 1)
    """
    if source.dtype != np.uint8 or source.colours not in (1, 3):
        bands = f"{source.bands} band{'s' * (source.bands != 1)} of {source.dtype}"
        stored = "a colour table" if source.colours == 0 else bands
        raise RasterError(f"{source.path} has {stored}, and the model takes RGB of 8 bits; {remedy}.")
    return (1, 2, 3) if source.colours == 3 else (1, 1, 1)
