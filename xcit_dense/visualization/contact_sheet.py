"""Contact sheets: many small drawings in a grid, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from xcit_dense.structures import Colour, Instances, Pixels
from xcit_dense.visualization.text import load_font, shorten, wrap

TILE = 480
"""The longer side of a tile in pixels."""

_COLUMNS = 4
_GAP = 16  # pixels between tiles
_TEXT = 15  # the height of captions in pixels
_LINE = 20  # the distance of lines in pixels
_CAPTION_LINES = 3
_LEGEND_ROWS = 6
_INK: Colour = (0, 0, 0)


@dataclass(frozen=True)
class Tile:
    """A drawing of a contact sheet.

    Attributes:
        image: (H, W, 3), RGB, uint8. No side is longer than :data:`TILE`, or the sheet reduces the drawing.
        caption: The text below the drawing.
    """

    image: Pixels
    caption: str


def make_contact_sheet(tiles: Sequence[Tile], title: str = "", legend: Sequence[tuple[str, Colour]] = ()) -> Pixels:
    """Arranges drawings in a grid of up to four columns.

    Args:
        tiles: The drawings in the order of reading, at least one.
        title: The text above the grid.
        legend: Names and colours, which are listed below the grid.

    Returns:
        The sheet, (H, W, 3), RGB, uint8.

    Example:
        >>> grey = np.full((360, 480, 3), 128, np.uint8)
        >>> sheet = make_contact_sheet([Tile(grey, "a.jpg"), Tile(grey, "b.jpg")], title="2 images")
        >>> sheet.shape[1]
        1008
    """
    columns = min(_COLUMNS, len(tiles))
    width = columns * (TILE + _GAP) + _GAP
    rows = []
    if title:
        rows.append(_draw_text(title, width, size=_TEXT + 5, bold=True))
    remaining = iter(tiles)
    while row := list(islice(remaining, columns)):
        rows.append(_draw_row(row, width))
    if legend:
        rows.append(_draw_legend(legend, width))
    return np.vstack([np.asarray(row) for row in rows])


def fit(height: int, width: int) -> tuple[int, int]:
    """Computes the size of a tile for an image.

    Args:
        height: The height of the image in pixels.
        width: The width of the image in pixels.

    Returns:
        Height and width of the tile. A small image keeps its size.

    Example:
        >>> fit(800, 1333)
        (288, 480)
    """
    factor = min(1.0, TILE / max(height, width))
    return max(1, round(factor * height)), max(1, round(factor * width))


def shrink_image(image: Pixels) -> Pixels:
    """Reduces an image to the size of a tile.

    Args:
        image: (H, W, 3), RGB, uint8.

    Returns:
        The reduced image.
    """
    height, width = fit(*image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def shrink_map(label_map: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Reduces a label map, or masks, to the size of a tile. Each pixel keeps a value of the original.

    Args:
        label_map: (..., H, W).

    Returns:
        The reduced map.
    """
    size, reduced = label_map.shape[-2:], fit(*label_map.shape[-2:])
    rows, columns = ((np.arange(few) * many) // few for many, few in zip(size, reduced))
    return label_map[..., rows[:, None], columns]


def shrink_instances(instances: Instances, height: int, width: int) -> Instances:
    """Reduces objects together with their image.

    Args:
        instances: The objects.
        height: The height of the original image.
        width: The width of the original image.

    Returns:
        The reduced objects.
    """
    rows, columns = fit(height, width)
    boxes = instances.boxes * np.array([columns / width, rows / height] * 2)
    masks = None if instances.masks is None else shrink_map(instances.masks)
    return Instances(boxes, instances.labels, instances.scores, masks)


def _draw_row(tiles: Sequence[Tile], width: int) -> Image.Image:
    font = load_font(_TEXT)
    images = [Image.fromarray(tile.image) for tile in tiles]
    for image in images:
        image.thumbnail((TILE, TILE))
    captions = [wrap(tile.caption, font, TILE, _CAPTION_LINES) for tile in tiles]
    top = max(image.height for image in images)
    row = _paper(width, top + _LINE * max(map(len, captions)) + _GAP + 4)
    pen = ImageDraw.Draw(row)
    for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = _GAP + column * (TILE + _GAP)
        row.paste(image, (left, top - image.height))
        for number, line in enumerate(caption):
            pen.text((left, top + 4 + number * _LINE), line, fill=_INK, font=font)
    return row


def _draw_text(text: str, width: int, size: int, bold: bool) -> Image.Image:
    font = load_font(size, bold)
    lines = wrap(text, font, width - 2 * _GAP, lines=5)
    step = round(1.3 * size)
    paper = _paper(width, len(lines) * step + 2 * _GAP - 4)
    pen = ImageDraw.Draw(paper)
    for number, line in enumerate(lines):
        pen.text((_GAP, _GAP - 4 + number * step), line, fill=_INK, font=font)
    return paper


def _draw_legend(legend: Sequence[tuple[str, Colour]], width: int) -> Image.Image:
    """Lists names and colours in columns of equal width. The last entry counts the names without a place."""
    font = load_font(_TEXT)
    widest = max(font.getlength(name) for name, _ in legend) + _TEXT + 2.5 * _GAP
    column = int(min(widest, (width - _GAP) / 2))
    columns = max(1, (width - _GAP) // column)
    places = columns * _LEGEND_ROWS
    shown = list(legend) if len(legend) <= places else list(legend[: places - 1])
    cells = len(shown) + (len(shown) < len(legend))
    line = _LINE + 4
    paper = _paper(width, -(-cells // columns) * line + _GAP)
    pen = ImageDraw.Draw(paper)
    for number, (name, colour) in enumerate(shown):
        left, top = _GAP + number % columns * column, number // columns * line
        pen.rectangle((left, top + 2, left + _TEXT, top + 2 + _TEXT), fill=colour, outline=_INK)
        name = shorten(name, font, column - _TEXT - 1.5 * _GAP)
        pen.text((left + _TEXT + _GAP // 2, top), name, fill=_INK, font=font)
    if len(shown) < len(legend):
        left, top = _GAP + (cells - 1) % columns * column, (cells - 1) // columns * line
        pen.text((left, top), f"and {len(legend) - len(shown):,} more", fill=_INK, font=font)
    return paper


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (255, 255, 255))
