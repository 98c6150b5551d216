"""Images with any number of bands and any depth, read without loss: TIFF through tifffile, others through OpenCV.

The readers of ordinary images reduce each image to three bands of 8 bits. OpenCV and Pillow read a part of a TIFF with
more bands, or none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import MissingLibraryError
from xcit_dense.media.images import UNREADABLE, ImageError, find_orientation, find_size, turn

Bands = npt.NDArray[Any]
"""An upright image (H, W, N) with the values of its file."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes of TIFF and BigTIFF files
_ORIENTATION = 274  # TIFF's tag
_INSTALL = "write pip install 'xcit-dense[bands]'"
_ALPHA = (1, 2)  # the kinds of extra bands that are an opacity
_COLOURS = {
    2: 3,
    5: 4,
    6: 3,
    8: 3,
}  # bands by TIFF's photometric interpretation: RGB, CMYK, YCbCr, CIELab; others have 1


@dataclass(frozen=True)
class Raster:
    """The header of an image.

    Attributes:
        height: The number of rows of the upright image.
        width: The number of columns of the upright image.
        bands: The number of bands.
        dtype: The type of the values, for example ``'uint16'``.
    """

    height: int
    width: int
    bands: int
    dtype: str


def read_bands(path: str | Path, bands: Sequence[int]) -> Bands:
    """Reads bands of an image.

    Args:
        path: A TIFF with any number of bands, of 8, 16 or 32 bits or floating-point; or an image that OpenCV reads, for
            example a PNG with 8 or 16 bits.
        bands: The numbers of the bands, counted from 1, in the order in which they are returned. The bands of a colour
            image are red, green and blue. A number may occur several times.

    Returns:
        (H, W, len(bands)), upright by the image's EXIF orientation, with the values and the type of the file.

    Raises:
        ImageError: The file does not exist, is not a readable image, or has fewer bands.
        MissingLibraryError: The file is a TIFF, and a library that reads it is not installed.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("red.png"), np.full((20, 30, 3), (255, 0, 7), np.uint8))
        >>> read_bands("red.png", [3, 1])[0, 0].tolist()
        [7, 255]
    """
    path = Path(path)
    pixels = _read_tiff(path) if _is_tiff(path) else _read_other(path)
    count = pixels.shape[2]
    if max(bands) > count:
        raise ImageError(
            f"{path} has {count} band{'s' * (count != 1)}, but band {max(bands)} is needed; give images that have all "
            "bands of --bands, or name other bands."
        )
    return np.ascontiguousarray(pixels[..., [band - 1 for band in bands]])


def read_raster(path: str | Path) -> Raster:
    """Reads the size, the number of bands and the type of an image from its header.

    Args:
        path: As for :func:`read_bands`.

    Returns:
        The header.

    Raises:
        ImageError: The file does not exist, or is not a readable image.
        MissingLibraryError: The file is a TIFF, and tifffile is not installed.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("depth.png"), np.zeros((20, 30), np.uint16))
        >>> read_raster("depth.png")
        Raster(height=20, width=30, bands=1, dtype='uint16')
    """
    path = Path(path)
    if _is_tiff(path):
        with _first_series(path) as (series, axes, page):
            height, width, bands = (series.shape[series.axes.index(axis)] if axis else 1 for axis in axes)
            dtype = str(series.dtype)
            if _orientation_of(page) in (5, 6, 7, 8):  # these exchange rows and columns
                height, width = width, height
    else:
        with _reading(path), Image.open(path) as image:
            bands, dtype = len(image.getbands()), _dtype_of(image)
            width, height = find_size(image)
    return Raster(height, width, bands, dtype)


def read_size(path: str | Path) -> tuple[int, int]:
    """Reads the size of an image with any number of bands. tifffile is only needed for images that Pillow cannot open.

    Args:
        path: As for :func:`read_bands`.

    Returns:
        Width and height of the upright image.

    Raises:
        ImageError: The file does not exist, or is not a readable image.
        MissingLibraryError: The file is a TIFF that Pillow cannot open, and tifffile is not installed.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("depth.png"), np.zeros((20, 30), np.uint16))
        >>> read_size("depth.png")
        (30, 20)
    """
    try:
        with Image.open(path) as image:
            return find_size(image)
    except UNREADABLE:
        raster = read_raster(path)
        return raster.width, raster.height


def find_loss(path: str | Path) -> str:
    """Finds out what a reader of ordinary images would lose of an image.

    Args:
        path: An image.

    Returns:
        A clause, for example ``'5 bands of uint16'``. Empty for an image with one band or with colours, of 8 bits, and
        for a file that is not an image.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("depth.png"), np.zeros((20, 30), np.uint16))
        >>> find_loss("depth.png")
        '1 band of uint16'
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            return loss_of(image)
    except UNREADABLE:
        try:
            raster = read_raster(path)
        except (ImageError, MissingLibraryError):
            return ""
        return _describe(raster.bands, 1, raster.dtype)


def loss_of(image: Image.Image) -> str:
    """Finds out what a reader of ordinary images would lose of an image that Pillow has opened.

    Args:
        image: The opened image, not yet loaded.

    Returns:
        As for :func:`find_loss`.
    """
    bands = colours = len(image.getbands())
    if image.format == "TIFF":
        tags: Any = vars(image)["tag_v2"]
        bands = tags.get(277, 1)
        opacities = sum(kind in _ALPHA for kind in tags.get(338, ()))
        colours = _COLOURS.get(tags.get(262), 1) + opacities
    return _describe(bands, colours, _dtype_of(image))


def _describe(bands: int, colours: int, dtype: str) -> str:
    if bands == colours and dtype == "uint8":
        return ""
    return f"{bands} band{'s' * (bands != 1)} of {dtype}"


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in _TIFF
    except FileNotFoundError:
        raise ImageError(f"No image at {path}; check the path.") from None
    except OSError as error:
        raise ImageError(f"{path} is not a readable image ({error.strerror}); give an image file.") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the errors of image readers into ours."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # readers of images raise any error for a damaged file
        if "imagecodecs" in str(error):
            raise MissingLibraryError(f"{path} cannot be read: {error}; {_INSTALL}.") from error
        reason = " ".join(str(error).split())
        raise ImageError(f"{path} is not a readable image ({reason}); give an intact TIFF or PNG file.") from error


@contextmanager
def _first_series(path: Path) -> Iterator[tuple[Any, tuple[str, str, str], Any]]:
    """Opens a TIFF. Yields its first image, the axes of rows, columns and bands ('' without bands), and a page."""
    try:
        from tifffile import TiffFile
    except ImportError as error:
        raise MissingLibraryError(f"TIFFs are read with tifffile, which is not installed; {_INSTALL}.") from error
    with _reading(path), TiffFile(path) as file:
        series = file.series[0]
        others = [axis for axis in series.axes if axis not in "YX"]
        if not {"Y", "X"} <= set(series.axes) or len(others) > 1 or series.dtype.kind not in "buif":
            raise ImageError(
                f"{path} has values of type {series.dtype} with the axes {series.axes}; give an image with rows (Y), "
                "columns (X) and bands, of integers or floating-point numbers."
            )
        yield series, ("Y", "X", others[0] if others else ""), file.pages[0]


def _read_tiff(path: Path) -> Bands:
    with _first_series(path) as (series, axes, page):
        pixels = series.asarray()
        order = [series.axes.index(axis) for axis in axes if axis]
        orientation = _orientation_of(page)
    pixels = pixels.transpose(order)
    pixels = pixels if axes[2] else pixels[..., None]
    return turn(pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels, orientation)


def _read_other(path: Path) -> Bands:
    import cv2

    orientation = 1
    with suppress(*UNREADABLE), Image.open(path) as image:  # some images are read by OpenCV only
        orientation = find_orientation(image)
    with _reading(path):
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ImageError(f"{path} is not a readable image; give an intact TIFF or PNG file.")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[2] >= 3:  # OpenCV returns blue first
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    return turn(pixels, orientation)


def _orientation_of(page: Any) -> int:
    """The orientation of a page of a TIFF, with EXIF's meaning."""
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _dtype_of(image: Image.Image) -> str:
    """The type of the values in the file of an opened image. Pillow reduces the values of some files to 8 bits."""
    if image.mode == "F":
        return "float32"
    if image.mode == "I" and image.format == "TIFF":
        return "int32"
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    raw = arguments if isinstance(arguments, str) else str(next(iter(arguments or ()), ""))
    return "uint16" if ";16" in raw or image.mode.startswith("I") else "uint8"
