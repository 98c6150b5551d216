"""What the checks of all formats share: a sample of the files, and the sizes of images."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from xcit_dense.datasets.checks.report import Report
from xcit_dense.media.images import UNREADABLE

T = TypeVar("T")

SAMPLE = 2000
"""This many opened images of a split are enough to find faults that many images have."""

_ORIENTATION = 0x0112  # the tag in EXIF
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height


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
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def read_size(report: Report, path: Path, name: str) -> tuple[int, int] | None:
    """Width and height of an image as training sees the image: upright, by the image's EXIF orientation.

    Args:
        report: Receives an error if the image is not readable.
        path: The image file.
        name: The name of the image in the report.

    Returns:
        The size. None if it is not known.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            orientation = None
            with suppress(Exception):  # damaged EXIF data, which image readers ignore
                orientation = image.getexif().get(_ORIENTATION)
    except Image.DecompressionBombError:
        return None  # a limit of Pillow; training reads larger images
    except UNREADABLE as error:
        report.error("unreadable images", f"{name}: {error}")
        return None
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def by(size: tuple[float, float]) -> str:
    """Words for a size."""
    return f"{size[0]} x {size[1]}"
