"""The values that a model gets of a window: the same as training gets of a complete image.

The reader does not scale values. The data preprocessor of the model normalises them with the mean and the standard
deviation in the config, which training has measured or taken over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xcit_dense.rasters.source import RasterError, Source
from xcit_dense.rasters.window import Window
from xcit_dense.structures import Pixels


def read_model_bands(source: Source, window: Window, bands: Sequence[int]) -> npt.NDArray[np.float32]:
    """Reads a window for a model that was trained with ``--bands``.

    Args:
        source: The image.
        window: The window.
        bands: The numbers of the bands, counted from 1, in the order of the model.

    Returns:
        (h, w, len(bands)), in the units of the file. Pixels without data get 0 where their values are not finite.

    Raises:
        RasterError: The window is not readable, the image has fewer bands, or a pixel with data is not finite.

    Example:
        >>> from xcit_dense.rasters.array import ArraySource
        >>> source = ArraySource(np.array([[[1.0, 2.0], [np.nan, np.nan]]]), nodata=np.nan)
        >>> read_model_bands(source, Window(0, 0, 1, 2), [2]).tolist()
        [[[2.0], [0.0]]]
    """
    values = source.read(window, bands).astype(np.float32)
    invalid = ~np.isfinite(values).all(axis=2)
    if invalid.any():
        faults = int((invalid & source.read_valid(window)).sum())
        if faults:
            raise RasterError(
                f"{source.path} has {faults:,} pixels with values that are not finite in {window}; give these pixels a "
                "number, or set the file's nodata value."
            )
        values[invalid] = np.nan_to_num(values[invalid], nan=0, posinf=0, neginf=0)
    return values


def read_rgb(source: Source, window: Window) -> Pixels:
    """Reads a window for a model that was trained with ordinary images.

    Args:
        source: The image.
        window: The window.

    Returns:
        (h, w, 3), RGB, uint8. A grey band is repeated. An alpha band is left out.

    Raises:
        RasterError: The window is not readable, or the image does not have one or three bands of uint8.

    Example:
        >>> from xcit_dense.rasters.array import ArraySource
        >>> read_rgb(ArraySource(np.full((8, 8), 7, np.uint8)), Window(0, 0, 2, 2))[0, 0].tolist()
        [7, 7, 7]
    """
    if source.dtype != np.uint8 or source.colours not in (1, 3):
        stored = "a colour table" if source.colours == 0 else f"{source.bands} bands of {source.dtype}"
        raise RasterError(
            f"{source.path} has {stored}, but the model needs red, green and blue of uint8; convert the image, or "
            "train a model with --bands."
        )
    pixels = source.read(window, range(1, source.colours + 1))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
