"""Image files: read as upright RGB, and written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.utils.files import atomic_write

try:
    from PIL import Image, ImageOps
except ImportError as error:
    raise MissingLibraryError("Images are read and written with Pillow; write pip install pillow.") from error

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""The exceptions that Pillow raises for damaged files and for files that are not images."""

_JPEG_LIMIT = 65_500  # pixels of a side


class ImageError(UserError):
    """A file is not a readable image. Other files may be readable."""


def open_image(path: str | Path) -> Image.Image:
    """Reads an image as upright RGB: the EXIF orientation is applied.

    Args:
        path: The image file.

    Returns:
        The image, in mode RGB.

    Raises:
        ImageError: The file does not exist, or is not a readable image.

    Example:
        >>> import numpy as np
        >>> write_image(Path("grey.png"), np.zeros((20, 30), np.uint8))
        >>> image = open_image("grey.png")
        >>> image.mode, image.size
        ('RGB', (30, 20))
    """
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"No image at {path}; check the path.") from None
    except UNREADABLE as error:
        raise ImageError(f"{path} is not a readable image ({error}); give a JPEG or PNG file.") from error


def write_image(path: Path, pixels: npt.NDArray[np.integer]) -> None:
    """Writes an image atomically.

    Args:
        path: The file, ``.jpg`` or ``.png``. Its directory is created.
        pixels: (H, W, 3) in RGB, uint8; or (H, W), uint8 or uint16. JPEG cannot store more than 65,500 pixels a side:
            larger images are scaled down.

    Raises:
        UserError: The file cannot be written.

    Example:
        >>> import numpy as np
        >>> write_image(Path("drawings/red.jpg"), np.full((20, 30, 3), (255, 0, 0), np.uint8))
        >>> Image.open("drawings/red.jpg").size
        (30, 20)
    """
    image = Image.fromarray(pixels)
    options: dict[str, Any] = {"format": "PNG"}
    if path.suffix != ".png":
        options = {"format": "JPEG", "quality": 92, "subsampling": 0}
        image.thumbnail((_JPEG_LIMIT, _JPEG_LIMIT))
    with atomic_write(path) as part:
        image.save(part, **options)
