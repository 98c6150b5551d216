"""Draws places on images, also places outside the image, and tiles for images that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from xcit_dense.structures import Colour, Pixels
from xcit_dense.visualization.contact_sheet import TILE
from xcit_dense.visualization.text import load_font, wrap

_LINE = 3  # pixels
_SMALL = 24  # pixels; a circle surrounds a smaller mark
_RING = 22  # pixels; the radius of the circle
_FAR = 1.0  # sides of the image; what is farther outside is moved to this distance
# Yellow between black lines is visible on any image, and for colour-blind people.
_INNER: Colour = (255, 255, 0)
_OUTER: Colour = (0, 0, 0)
_OUTSIDE: Colour = (205, 205, 205)


def draw_mark(image: Pixels, box: Sequence[float] | None = None, polygons: Sequence[Sequence[float]] = ()) -> Pixels:
    """Draws a box and polygons on a reduced image. Grey surroundings show what is outside the image.

    Args:
        image: (H, W, 3), RGB, uint8.
        box: The corners x1, y1, x2, y2 in pixels of the image. Corners that are farther outside than a side of the
            image are drawn at this distance.
        polygons: Each polygon as x, y, x, y and so on, in pixels of the image. A polygon may have one or two points.

    Returns:
        The drawing, RGB, uint8. The longer side is a tile of a contact sheet.

    Example:
        >>> image = np.zeros((300, 400, 3), np.uint8)
        >>> draw_mark(image, box=(380, 100, 480, 200)).shape
        (295, 480, 3)
    """
    height, width = image.shape[:2]
    size = np.array([width, height], float)
    shapes: list[npt.NDArray[np.floating]] = []
    for polygon in polygons:
        if len(polygon) >= 2:
            shapes.append(np.reshape(polygon[: len(polygon) // 2 * 2], (-1, 2)))
    if box is not None:
        x1, y1, x2, y2 = box
        shapes.append(np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]))
    shapes = [np.clip(shape, -_FAR * size, (1 + _FAR) * size) for shape in shapes if np.isfinite(shape).all()]
    # The drawing shows the image and all marks. Marks outside the image get some space around them.
    space = 0.02 * max(width, height)
    low: npt.NDArray[np.floating] = np.zeros(2)
    high: npt.NDArray[np.floating] = size
    for shape in shapes:
        low = np.where(shape.min(axis=0) < 0, np.minimum(low, shape.min(axis=0) - space), low)
        high = np.where(shape.max(axis=0) > size, np.maximum(high, shape.max(axis=0) + space), high)
    factor = TILE / (high - low).max()
    columns, rows = np.maximum(1, np.round(factor * (high - low))).astype(int).tolist()
    left, top = np.round(-factor * low).astype(int).tolist()
    reduced = (max(1, round(factor * width)), max(1, round(factor * height)))
    canvas = Image.new("RGB", (columns, rows), _OUTSIDE)
    canvas.paste(Image.fromarray(image).resize(reduced, Image.Resampling.LANCZOS), (left, top))
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        _draw_outline(pen, factor * (shape - low))
    return np.asarray(canvas)


def draw_placeholder(text: str) -> Pixels:
    """Draws a tile for an image that cannot be drawn.

    Args:
        text: The reason.

    Returns:
        The tile, RGB, uint8.

    Example:
        >>> draw_placeholder("no file").shape
        (240, 480, 3)
    """
    font = load_font(22)
    tile = Image.new("RGB", (TILE, TILE // 2), _OUTSIDE)
    pen = ImageDraw.Draw(tile)
    lines = wrap(text, font, TILE - 40, lines=4)
    top = (tile.height - 28 * len(lines)) // 2
    for number, line in enumerate(lines):
        pen.text((tile.width // 2, top + 28 * number), line, fill=_OUTER, font=font, anchor="ma")
    return np.asarray(tile)


def _draw_outline(pen: ImageDraw.ImageDraw, points: npt.NDArray[np.floating]) -> None:
    """Draws a closed line, in yellow between black lines. A circle surrounds a small shape."""
    low, high = points.min(axis=0), points.max(axis=0)
    corners = [(float(x), float(y)) for x, y in points]
    ring = None
    if (high - low).max() < _SMALL:
        x, y = (low + high) / 2
        ring = (x - _RING, y - _RING, x + _RING, y + _RING)
    for colour, line in ((_OUTER, 3 * _LINE), (_INNER, _LINE)):
        if ring:
            extra = (line - _LINE) // 2
            pen.ellipse(_grow(ring, extra), outline=colour, width=line)
        pen.line([*corners, corners[0]], fill=colour, width=line, joint="curve")
        if len(corners) == 1:
            ((x, y),) = corners
            radius = line // 2 + 1
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _grow(box: tuple[float, float, float, float], margin: float) -> tuple[float, float, float, float]:
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
