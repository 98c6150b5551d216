"""What the checks of all formats share: a sample of the files, and the sizes of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from xcit_dense.datasets.checks.report import Mark, Report
from xcit_dense.media.bands import find_loss, loss_of, read_raster
from xcit_dense.media.images import UNREADABLE, ImageError, find_depth_fault, find_size

T = TypeVar("T")

_NUMBER = (int, float)  # quicker than int | float, and large data sets have millions of numbers

SAMPLE = 2000
"""This many opened images of a split are enough to find faults that many images have."""


def mark_sample(files: list[T], limit: int | None) -> list[tuple[T, bool]]:
    """Marks an evenly spread sample.

    Args:
        files: The files.
        limit: The largest number of files in the sample. None takes all files.

    Returns:
        Each file, and whether it belongs to the sample.
    """
    step = max(1, math.ceil(len(files) / limit)) if limit else 1
    return [(file, number % step == 0) for number, file in enumerate(files)]


def sampled(opened: int, count: int) -> str:
    """Words for a summary that say how many of the images were opened, if not all were."""
    return f" ({opened:,} of them opened)" if opened < count else ""


def has(entry: Any, **kinds: Any) -> bool:
    """Whether an entry is a dictionary that has these keys, with values of these types.

    Args:
        entry: Any value from a JSON file.
        kinds: A type, or a tuple of types, for each key.
    """
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def are_numbers(*values: Any) -> bool:
    """Whether all values are finite numbers."""
    return all(isinstance(value, _NUMBER) and math.isfinite(value) for value in values)


def read_size(
    report: Report,
    path: Path,
    name: str,
    entry: tuple[float, float] | None = None,
    bands: Sequence[int] = (),
) -> tuple[int, int] | None:
    """Width and height of an image as training sees the image (:func:`xcit_dense.media.images.find_orientation`).

    Args:
        report: Receives an error if the image is not readable.
        path: The image file.
        name: The name of the image in the report.
        entry: Width and height in the annotations. None if the annotations contain no size.
        bands: The numbers of the bands that training reads. Empty if training reads ordinary images.

    Returns:
        The size. None if it is not known.
    """
    if bands:
        return _read_size_of_bands(report, path, name, bands)
    try:
        with Image.open(path) as image:
            loss = loss_of(image)
            size = find_size(image, entry)
            if size != find_size(image):
                what = "images that training does not turn by their EXIF orientation, to fit their annotations"
                report.warning(what, name, Mark(path))
            fault = _find_depth_fault(path) if image.format == "TIFF" else None
    except Image.DecompressionBombError:
        return None  # a limit of Pillow; training reads larger images
    except UNREADABLE as error:
        loss = find_loss(path)
        fault = "" if loss else _find_depth_fault(path) or str(error)
    if fault:
        report.error("unreadable images", f"{name}: {fault}", Mark(path))
        return None
    if loss in ("1 band of uint16", "3 bands of uint16"):
        report.warning(
            "images of 16 bits, of which training uses the upper 8 (--bands uses all)", f"{name}: {loss}", Mark(path)
        )
    elif loss:
        report.error(
            "images of other bands than red, green and blue (--bands reads them)", f"{name}: {loss}", Mark(path)
        )
        return None
    return size


def _read_size_of_bands(report: Report, path: Path, name: str, bands: Sequence[int]) -> tuple[int, int] | None:
    try:
        raster = read_raster(path)
    except ImageError as error:
        report.error("unreadable images", f"{name}: {error}", Mark(path))
        return None
    if raster.bands < max(bands):
        report.error(
            "images with fewer bands than --bands names",
            f"{name}: {raster.bands}, but band {max(bands)} is named",
            Mark(path),
        )
    return raster.width, raster.height


def _find_depth_fault(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return find_depth_fault(file)
    except OSError:
        return None


def count_classes(number: int) -> str:
    """Words for a number of classes."""
    return f"{number} class{'es' * (number != 1)}"


def by(size: tuple[float, float]) -> str:
    """Words for a size."""
    return f"{size[0]} x {size[1]}"
