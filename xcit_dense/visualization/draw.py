"""Detections and segmentations drawn over pictures, legible from pictures of a few pixels to such of thousands."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError
from xcit_dense.structures import IGNORED, Colour, Instances, Pixels

try:
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise MissingLibraryError("Pictures are drawn with matplotlib's font; write pip install matplotlib.") from error
Box = tuple[float, float, float, float]

_SMALL = 512  # pixels of the longer side; smaller pictures are enlarged to about this
_FILL = 0.4  # opacity of a mask
_COVER = 0.55  # opacity of a label map
_HIDDEN = 0.15  # part of a label under others from which on it is left out
_GREY: Colour = (128, 128, 128)  # of what training ignores
_OTHERS: dict[str, Colour] = {"ignored": _GREY, "no class": (255, 0, 255)}


def make_palette(count: int) -> list[Colour]:
    """Colours that are easy to tell apart: neighbours differ most in hue, and rounds of hues in brightness.

    Args:
        count: How many. The first ones are the same for any number.
    """
    golden = (math.sqrt(5) - 1) / 2
    colours = []
    for index in range(count):
        value, saturation = ((1.0, 0.75), (0.75, 1.0), (1.0, 0.45), (0.5, 0.8))[index // 8 % 4]
        red, green, blue = colorsys.hsv_to_rgb(index * golden % 1, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever stands out more against a colour: by at least 4.5 to 1, as WCAG 2.1 wants it.

    Args:
        colour: That of the ground.
    """
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(colour, 255)]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


def draw_instances(
    picture: Pixels,
    instances: Instances,
    classes: Sequence[str],
    palette: Sequence[Colour] | None = None,
    ignored: Instances | None = None,
) -> Pixels:
    """Draws masks, boxes and labels over a picture, the surest object on top.

    Where labels would hide each other, those of the surest objects are written; the others keep their box and colour.

    Args:
        picture: (H, W, 3), RGB.
        instances: What to draw.
        classes: Names of the classes.
        palette: A colour for each class; by default :func:`make_palette`'s.
        ignored: Objects that training ignores, drawn grey.

    Returns:
        The drawing, RGB: of the picture's size, or a multiple of it if the picture is small.
    """
    palette = palette or make_palette(len(classes))
    canvas, factor = _enlarge(picture)
    drawn: list[tuple[Box, str, Colour, npt.NDArray[np.bool_] | None]] = []
    for group in filter(None, (ignored, instances)):
        order = np.arange(len(group.boxes)) if group.scores is None else np.argsort(group.scores, kind="stable")
        for index in order:
            box = _clip(group.boxes[index] * factor, canvas.size)
            if box is None:
                continue
            name = classes[int(group.labels[index])]
            if group is ignored:
                text, colour = f"ignored {name}", _GREY
            else:
                text = name if group.scores is None else f"{name} {group.scores[index]:.2f}"
                colour = palette[int(group.labels[index])]
            drawn.append((box, text, colour, None if group.masks is None else group.masks[index]))

    pixels = np.array(canvas)
    size = _text_size(canvas.size)
    line = max(1, round(size / 7))
    for _, _, colour, mask in drawn:
        if mask is not None:
            _blend_mask(pixels, mask, colour, factor, line)
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    for box, _, colour, _ in drawn:
        pen.rectangle(box, outline=colour, width=line)
    font = _font(size)
    labels: list[tuple[Box, str, Colour]] = []
    # The surest chooses its place first, and is written last.
    for box, text, colour, _ in reversed(drawn):
        text = _shorten(text, font, canvas.width - 2 * _padding(font))
        place = _find_place(box, text, font, canvas.size, [place for place, *_ in labels])
        if place is not None:
            labels.append((place, text, colour))
    for (left, top, right, bottom), text, colour in reversed(labels):
        pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        pen.text((left + _padding(font), top + _padding(font) // 2), text, fill=ink_on(colour), font=font)
    return np.asarray(canvas)


def draw_label_map(
    picture: Pixels, label_map: npt.NDArray[np.integer], classes: Sequence[str], palette: Sequence[Colour] | None = None
) -> Pixels:
    """Blends a label map over a picture, with a legend to its right: the classes present, by their share of the pixels.

    Args:
        picture: (H, W, 3), RGB.
        label_map: (H, W), class indices. 255 is ignored, and striped grey; what else is out of their range is no class,
            and striped magenta.
        classes: Names of the classes.
        palette: A colour for each class; by default :func:`make_palette`'s.

    Returns:
        The drawing, RGB. Its size depends on the picture's size and the names alone, so that videos can be made of it.
    """
    palette = palette or make_palette(len(classes))
    canvas, factor = _enlarge(picture)
    count = len(classes)
    labels = np.where((label_map >= 0) & (label_map < count), label_map, count + (label_map != IGNORED))
    shares = np.bincount(labels.ravel(), minlength=count + 2) / labels.size
    names = [*classes, *_OTHERS]
    palette = [*palette[:count], *_OTHERS.values()]
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    size = _text_size(canvas.size)
    colours = np.array(palette, np.float32)[labels]
    opacity = np.full((*labels.shape, 1), _COVER, np.float32)
    rows, columns = np.indices(labels.shape, sparse=True)
    opacity[(labels >= count) & ((rows + columns) // max(2, size // 2) % 2 == 0)] = 0.95
    opacity[_edges(labels, max(1, round(size / 6)))] = 1
    # Paler, so that colours are those of the classes.
    ground = Image.blend(canvas, canvas.convert("L").convert("RGB"), 0.3)
    pixels = np.asarray(ground) * (1 - opacity) + colours * opacity
    present = [index for index in np.argsort(-shares, kind="stable") if shares[index]]
    return _add_legend(
        Image.fromarray(pixels.round().astype(np.uint8)),
        [(names[index], palette[index], shares[index]) for index in present],
        classes,
        _font(size),
    )


def _enlarge(picture: Pixels) -> tuple[Image.Image, int]:
    """The picture, small ones enlarged, and how many times."""
    height, width = picture.shape[:2]
    factor = max(1, round(_SMALL / max(height, width)))
    size = (factor * width, factor * height)
    return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), factor


def _text_size(size: tuple[int, int]) -> int:
    return max(12, round(0.02 * math.sqrt(size[0] * size[1])))


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _clip(box: npt.NDArray[np.floating], size: tuple[int, int]) -> Box | None:
    """The part of a box that is in the picture; none of a box that is no box."""
    if not np.isfinite(box).all():
        return None
    limits = np.array([*size, *size]) - 1
    x1, y1, x2, y2 = np.clip(box, 0, limits).tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _blend_mask(pixels: Pixels, mask: npt.NDArray[np.bool_], colour: Colour, factor: int, line: int) -> None:
    """Fills a mask in place, and draws its outline."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part = mask[top:bottom, left:right].repeat(factor, axis=0).repeat(factor, axis=1)
    region = pixels[top * factor : bottom * factor, left * factor : right * factor]
    inner = slice(line, -line)
    opacity = np.where(_edges(np.pad(part, line), line)[inner, inner], 0.9, _FILL)[..., None] * part[..., None]
    region[:] = (region * (1 - opacity) + np.array(colour) * opacity).round()


def _edges(labels: npt.NDArray[np.generic], line: int) -> npt.NDArray[np.bool_]:
    """Where a place's label differs from that a line's width away in any of four directions."""
    found = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        values, here = np.moveaxis(labels, axis, 0), np.moveaxis(found, axis, 0)
        step = min(line, len(values))
        different = values[step:] != values[:-step]
        here[step:] |= different
        here[:-step] |= different
    return found


def _padding(font: ImageFont.FreeTypeFont) -> int:
    return max(1, round(font.size / 6))


def _find_place(
    box: Box, text: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], taken: Sequence[Box]
) -> Box | None:
    """Where a box's label goes: to the first free corner, or where it covers least; None if that is too much."""
    ascent, descent = font.getmetrics()
    width, height = math.ceil(font.getlength(text)) + 2 * _padding(font), ascent + descent + _padding(font)
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height)]
    corners += [(x2 - width, y) for _, y in corners]
    places = []
    for x, y in corners:
        left, top = max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height))
        places.append((left, top, left + width, top + height))
    covered, place = min(
        ((sum(_overlap(place, other) for other in taken), place) for place in places), key=lambda found: found[0]
    )
    return place if covered <= _HIDDEN * width * height else None


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its beginning as fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _percent(share: float) -> str:
    if share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.9995 else "100 %"


def _add_legend(
    canvas: Image.Image,
    entries: list[tuple[str, Colour, float]],
    classes: Sequence[str],
    font: ImageFont.FreeTypeFont,
) -> Pixels:
    """Puts a legend to the right of a drawing; it grows in height where there is no room for a few rows."""
    row, pad = round(1.6 * font.size), round(0.6 * font.size)
    names = max(font.getlength(name) for name in (*classes, *_OTHERS, "and 999 more"))
    names = min(names, 14 * font.size)
    share = math.ceil(font.getlength("99.9 %"))
    width = math.ceil(4 * pad + font.size + names + share)
    height = max(canvas.height, row * min(len(classes) + len(_OTHERS), 8) + 2 * pad)
    whole = Image.new("RGB", (canvas.width + width, height), (255, 255, 255))
    whole.paste(canvas)
    pen = ImageDraw.Draw(whole)
    rows = (height - 2 * pad) // row
    if len(entries) > rows:
        entries, left = entries[: rows - 1], len(entries) - rows + 1
    else:
        left = 0
    x, y = canvas.width + pad, pad
    for name, colour, part in entries:
        pen.rectangle((x, y, x + font.size, y + font.size), fill=colour, outline=(0, 0, 0))
        pen.text((x + font.size + pad, y), _shorten(name, font, names), fill=(0, 0, 0), font=font)
        pen.text((whole.width - pad, y), _percent(part), fill=(0, 0, 0), font=font, anchor="ra")
        y += row
    if left:
        pen.text((x + font.size + pad, y), f"and {left} more", fill=(90, 90, 90), font=font)
    return np.asarray(whole)
