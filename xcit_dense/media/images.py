"""Image files: read as upright RGB, and written atomically."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.structures import Pixels
from xcit_dense.utils.files import atomic_write

try:
    from PIL import Image, ImageOps, TiffImagePlugin
except ImportError as error:
    raise MissingLibraryError("Images are read and written with Pillow; write pip install pillow.") from error

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""The exceptions that Pillow raises for damaged files and for files that are not images."""

_JPEG_LIMIT = 65_500  # pixels of a side


# Tags of EXIF and of TIFF files.
_ORIENTATION, _WIDTH, _HEIGHT, _BITS, _SAMPLE_FORMAT = 274, 256, 257, 258, 339
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height
_INVERSE = {6: 8, 8: 6}  # the other orientations are their own inverse
# What may contain an orientation: the marks of EXIF data in JPEG, PNG and WebP files, and of XMP data.
_MARKS = (b"Exif", b"EXIF", b"eXIf", b"Raw profile type", b"tiff:Orientation")
_JPEG, _JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class ImageError(UserError):
    """A file is not a readable image. Other files may be readable."""


def find_orientation(image: Image.Image, entry: tuple[float, float] | None = None) -> int:
    """Decides how an image is turned: the one rule for checks, training, prediction and evaluation.

    An image is turned upright by its EXIF orientation, in each file format. Some annotation tools ignore the
    orientation. The size in their annotations shows this: it is the stored size, and not the upright size. The image
    then stays as it is stored, so that it fits its annotations.

    Args:
        image: An opened image, not yet loaded.
        entry: Width and height in the annotations. None if the image has no annotations.

    Returns:
        The orientation that :func:`turn` applies: 1 to 8, with EXIF's meaning. 1 leaves the image as it is stored.
    """
    orientation = _read_orientation(image)
    width, height = _stored_size(image)
    if orientation in _SIDEWAYS and entry is not None and tuple(entry) == (width, height) != (height, width):
        return 1
    return orientation


def find_size(image: Image.Image, entry: tuple[float, float] | None = None) -> tuple[int, int]:
    """Finds width and height of an image after :func:`turn`.

    Args:
        image: An opened image, not yet loaded.
        entry: As for :func:`find_orientation`.
    """
    width, height = _stored_size(image)
    return (height, width) if find_orientation(image, entry) in _SIDEWAYS else (width, height)


def may_be_turned(content: bytes) -> bool:
    """Returns whether an image file may have an orientation. The search is quick: no other library reads the file.

    Args:
        content: The content of the file.
    """
    if content.startswith(_JPEG):
        content = content[: content.find(_JPEG_SCAN)]  # EXIF data come before the pixels
    return content.startswith(_TIFF) or any(mark in content for mark in _MARKS)


def turn(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turns and mirrors an image by its EXIF orientation.

    Args:
        pixels: (H, W, ...).
        orientation: EXIF's number, 1 to 8.

    Returns:
        (H, W, ...) or (W, H, ...), contiguous.

    Example:
        >>> turn(np.array([[1, 2, 3]]), 6).tolist()
        [[1], [2], [3]]
    """
    if orientation in (5, 7):
        pixels = np.swapaxes(pixels, 0, 1)
    elif orientation in (6, 8):
        pixels = np.rot90(pixels, -1 if orientation == 6 else 1)
    elif orientation == 4:
        pixels = pixels[::-1]
    elif orientation == 2:
        pixels = pixels[:, ::-1]
    if orientation in (3, 7):
        pixels = pixels[::-1, ::-1]
    return np.ascontiguousarray(pixels)


def read_pixels(image: Image.Image, entry: tuple[float, float] | None = None) -> Pixels:
    """Reads the pixels of an opened image, turned as :func:`find_orientation` decides.

    Args:
        image: An opened image, not yet loaded.
        entry: As for :func:`find_orientation`.

    Returns:
        (H, W, 3), RGB, uint8. Of 16 bits, the upper 8 are kept.
    """
    stored, wanted = _read_orientation(image), find_orientation(image, entry)
    if image.format == "TIFF":  # Pillow turns these files when it loads their pixels
        image = ImageOps.exif_transpose(image)
        wanted = 1 if wanted == stored else _INVERSE.get(stored, stored)
    else:
        image.load()
    if image.mode.startswith("I;16"):
        pixels = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    else:
        pixels = np.asarray(image.convert("RGB"))
    return turn(pixels, wanted)


def find_fault(content: bytes) -> str:
    """Finds out why OpenCV cannot read an image.

    Args:
        content: The content of the file.

    Returns:
        The reason, a clause.
    """
    if not content:
        return "the file is empty"
    depth = find_depth_fault(io.BytesIO(content))
    if depth:
        return depth
    try:
        with Image.open(io.BytesIO(content)) as image:
            return f"OpenCV cannot decode this {image.format}, which may be cut short"
    except UNREADABLE:
        return "the file is not an image"


def find_depth_fault(file: BinaryIO) -> str | None:
    """Finds out whether a TIFF file has values that are not 8 or 16 bits, which OpenCV cannot read as an image.

    Args:
        file: The opened file.

    Returns:
        The reason, a clause. None if the file is not a TIFF file, or has 16 bits or fewer.
    """
    start = file.read(4)
    if start not in _TIFF:
        return None
    # Pillow cannot open every TIFF file with floating-point numbers, but it reads the tags of all of them.
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(start + file.read(12 if b"+" in start else 4))
        file.seek(tags.next)
        tags.load(file)
        bits, kinds = max(tags.get(_BITS, (1,))), tags.get(_SAMPLE_FORMAT, (1,))
    except Exception:  # a damaged file, in which any value is possible
        return None
    if bits <= 16 and 3 not in kinds:
        return None
    kind = "floating-point numbers" if 3 in kinds else "whole numbers"
    needed = "whole numbers of 8 or 16 bits (--bands reads others)"
    return f"the TIFF file has {kind} of {bits} bits, and images need {needed}"


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
            return Image.fromarray(read_pixels(file))
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


def _read_orientation(image: Image.Image) -> int:
    with suppress(Exception):  # damaged EXIF data, which image readers ignore
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        if 2 <= orientation <= 8:
            return orientation
    return 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before the image is turned."""
    if image.format == "TIFF":  # Pillow gives the upright size of these files
        tags = image.tag_v2  # type: ignore[attr-defined]
        return int(tags[_WIDTH]), int(tags[_HEIGHT])
    return image.size
