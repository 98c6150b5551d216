"""Image files with an EXIF orientation, in each format that stores one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

# Suffix by name, and what Pillow needs to write the format with little or no loss.
FORMATS = {
    "JPEG": (".jpg", {"quality": 98, "subsampling": 0}),
    "PNG": (".png", {}),
    "WebP": (".webp", {"lossless": True}),
    "TIFF": (".tif", {}),
    "compressed TIFF": (".tif", {"compression": "tiff_lzw"}),
}

# Pillow's names for what EXIF's numbers mean.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def write_turned(path: Path, form: str, orientation: int) -> tuple[Path, Image.Image, Image.Image]:
    """Writes an image. Returns its path, the stored image and the upright image."""
    smooth = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    stored = Image.fromarray(smooth).resize((48, 32), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    suffix, options = FORMATS[form]
    path = path.with_suffix(suffix)
    stored.save(path, exif=exif, **options)
    upright = stored.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else stored
    return path, stored, upright


def is_close(image: npt.ArrayLike, other: npt.ArrayLike) -> bool:
    """Whether two images have the same size, and the same values up to the loss of JPEG."""
    first, second = np.asarray(image, int), np.asarray(other, int)
    return first.shape == second.shape and abs(first - second).max() < 25
