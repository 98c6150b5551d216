"""Figures of matplotlib with images and maps on the area of an image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from xcit_dense.errors import MissingLibraryError
from xcit_dense.utils.files import atomic_write

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingLibraryError("Features are drawn with matplotlib; write pip install matplotlib.") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def make_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of a size in inches. It needs no display."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def panel_size(image: Image.Image, area: float) -> tuple[float, float]:
    """Returns width and height of a panel in inches, with a given area and the image's proportions, at most 3 to 1."""
    proportion = min(max(image.width / image.height, 1 / 3), 3)
    return math.sqrt(area * proportion), math.sqrt(area / proportion)


def show(axes: Axes, image: Image.Image, pixels: Any, title: str, stride: int | None = None, **options: Any) -> None:
    """Shows the image, or a map with a stride on the image's area. The last positions may reach beyond the area."""
    rows, columns = np.shape(pixels)[:2]
    extent = (0, columns * (stride or 1), rows * (stride or 1), 0)
    axes.axis("on")
    axes.set_facecolor("0.9")
    axes.imshow(pixels, extent=extent, interpolation="nearest", **options)
    axes.set(xlim=(0, image.width), ylim=(image.height, 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, atomically."""
    with atomic_write(path) as part:
        figure.savefig(part, format="png", bbox_inches="tight", pad_inches=0.05)
