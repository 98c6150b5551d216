"""Shows three bands of an image as red, green and blue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.media.bands import find_loss, read_bands, read_raster
from xcit_dense.media.images import open_image
from xcit_dense.structures import Pixels

LOW, HIGH = 2, 98
"""The percentiles of a band's values that become black and full brightness."""


def stretch(bands: npt.NDArray[Any]) -> Pixels:
    """Shows bands as red, green and blue, each stretched between two percentiles of its values.

    Args:
        bands: (H, W, 3) of any type and range, or (H, W, 1) for a grey image. Values that are not finite become black.

    Returns:
        (H, W, 3), uint8.

    Example:
        >>> stretch(np.linspace(1000, 3000, 101)[None, :, None])[0, [0, 50, 100], 0].tolist()
        [0, 128, 255]
    """
    values = np.where(np.isfinite(bands), bands, np.nan).astype(np.float32)
    shown = np.zeros(values.shape, np.uint8)
    for band in range(values.shape[2]):
        finite = values[..., band][np.isfinite(values[..., band])]
        low, high = np.percentile(finite, (LOW, HIGH)) if finite.size else (0, 0)
        if high > low:
            share = (values[..., band] - low) / (high - low)
            shown[..., band] = np.nan_to_num(share.clip(0, 1) * 255).round()
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def open_pixels(path: str | Path) -> Pixels:
    """Reads an image for a drawing. An image that is not an ordinary one is shown by its first bands.

    Args:
        path: An image, as for :func:`xcit_dense.media.images.open_image` or :func:`xcit_dense.media.bands.read_bands`.

    Returns:
        (H, W, 3), RGB, uint8, upright.

    Raises:
        ImageError: The file does not exist, or is not a readable image.
        MissingLibraryError: A library that reads the image is not installed.
    """
    if not find_loss(path):
        return np.asarray(open_image(path))
    count = 3 if read_raster(path).bands >= 3 else 1
    return stretch(read_bands(path, range(1, count + 1)))
