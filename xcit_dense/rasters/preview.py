"""A small drawing of an image of any size, with the label map or the objects over it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from xcit_dense.media.images import write_image
from xcit_dense.rasters.objects import MapObject
from xcit_dense.rasters.source import Source, small_grid
from xcit_dense.structures import Colour, Pixels
from xcit_dense.visualization.bands import stretch
from xcit_dense.visualization.draw import draw_label_map, make_palette

LONGEST = 1024
"""The number of pixels of the longer side of the image in a preview. The legend is to the right of the image."""

_COVER = 0.5  # the opacity of an object


def preview_labels(
    path: Path,
    source: Source,
    labels: npt.NDArray[Any],
    *,
    classes: Sequence[str],
    palette: Sequence[Colour] | None = None,
    bands: Sequence[int] = (),
) -> None:
    """Writes a small JPEG of an image with its label map and a legend. The memory does not grow with the image.

    Args:
        path: The file, ``.jpg``.
        source: The image.
        labels: (H, W), class indices. May be memory-mapped.
        classes: The name of each class.
        palette: The colour of each class.
        bands: The three bands that are drawn as red, green and blue, or one. By default the first ones.

    Raises:
        RasterError: The image is not readable.
        UserError: The file cannot be written.

    Example:
        >>> from xcit_dense.rasters.array import ArraySource
        >>> source = ArraySource(np.zeros((3000, 4000, 3), np.uint8))
        >>> preview_labels(Path("town.jpg"), source, np.zeros((3000, 4000), np.uint8), classes=["field"])
    """
    image = read_preview(source, bands)
    rows, columns = small_grid(source.height, source.width, LONGEST)
    # One row at a time, so that a memory-mapped file is not read into memory as a copy.
    small = np.stack([np.asarray(labels[row])[columns] for row in rows])
    write_image(path, draw_label_map(image, small, classes, palette))


def preview_objects(
    path: Path,
    source: Source,
    objects: Iterable[MapObject],
    *,
    classes: Sequence[str],
    palette: Sequence[Colour] | None = None,
    bands: Sequence[int] = (),
) -> None:
    """Writes a small JPEG of an image with its objects in the colours of their classes.

    Args:
        path: The file, ``.jpg``.
        source: The image.
        objects: The objects, one at a time. Objects with masks are filled, and others are drawn as boxes.
        classes: The name of each class.
        palette: The colour of each class.
        bands: As for :func:`preview_labels`.

    Raises:
        RasterError: The image is not readable.
        UserError: The file cannot be written.

    Example:
        >>> from xcit_dense.rasters.array import ArraySource
        >>> source = ArraySource(np.zeros((3000, 4000, 3), np.uint8))
        >>> found = [MapObject((1000, 500, 1400, 900), label=0, score=0.9)]
        >>> preview_objects(Path("houses.jpg"), source, found, classes=["house"])
    """
    palette = palette or make_palette(len(classes))
    image = Image.fromarray(read_preview(source, bands))
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    scale = image.width / source.width
    for one in objects:
        colour = (*palette[one.label], round(255 * _COVER))
        if one.mask is None:
            pen.rectangle([scale * side for side in one.box], outline=(*palette[one.label], 255))
            continue
        outline = one.outline()
        for part in getattr(outline, "geoms", [outline]):
            if part.geom_type == "Polygon":
                corners = [(scale * x, scale * y) for x, y in part.exterior.coords]
                pen.polygon(corners, fill=colour, outline=(*palette[one.label], 255))
    drawing = Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")
    write_image(path, np.asarray(drawing))


def read_preview(source: Source, bands: Sequence[int] = ()) -> Pixels:
    """Reads an image at the size of a preview.

    Args:
        source: The image.
        bands: As for :func:`preview_labels`.

    Returns:
        (h, w, 3), RGB, uint8. Values of other types, and chosen bands, are stretched between percentiles.

    Raises:
        RasterError: The image is not readable.
    """
    shown = list(bands) or list(range(1, 4 if source.colours >= 3 else 2))
    small = source.read_small(LONGEST, shown)
    if source.dtype == np.uint8 and not bands and source.colours in (1, 3):
        return np.ascontiguousarray(np.broadcast_to(small, (*small.shape[:2], 3)))
    return stretch(small)
