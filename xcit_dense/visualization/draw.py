"""Draws detections and label maps over images. The drawings are legible for images of any size."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from xcit_dense.structures import IGNORED, Colour, Instances, Pixels
from xcit_dense.visualization.text import load_font, shorten

Box = tuple[float, float, float, float]

_SMALL = 512  # pixels; smaller images are enlarged until the longer side has about this size
_FILL = 0.4  # the opacity of a mask
_COVER = 0.55  # the opacity of a label map
_HIDDEN = 0.15  # a label is left out if other labels would cover a larger share of it
_NAMED = 0.01  # a class with a smaller share of the pixels gets no name
_GREY: Colour = (128, 128, 128)  # for objects and pixels that training ignores
_OTHERS: dict[str, Colour] = {"ignored": _GREY, "no class": (255, 0, 255)}


def make_palette(count: int) -> list[Colour]:
    """Makes different colours for classes.

    The hues of neighbours differ most. After eight hues, brightness and saturation change.

    Args:
        count: The number of colours. A shorter palette is the beginning of a longer one.

    Returns:
        The RGB colours.

    Example:
        >>> make_palette(2)
        [(255, 64, 64), (64, 120, 255)]
    """
    golden = (math.sqrt(5) - 1) / 2
    colours = []
    for index in range(count):
        value, saturation = ((1.0, 0.75), (0.75, 1.0), (1.0, 0.45), (0.5, 0.8))[index // 8 % 4]
        red, green, blue = colorsys.hsv_to_rgb(index * golden % 1, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def ink_on(colour: Colour) -> Colour:
    """Chooses the text colour with the higher contrast: at least 4.5 to 1, as WCAG 2.1 requires.

    Args:
        colour: The background.

    Returns:
        Black or white.

    Example:
        >>> ink_on((255, 255, 0))
        (0, 0, 0)
    """
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in np.divide(colour, 255)]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    contrast_to_black, contrast_to_white = (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)
    return (0, 0, 0) if contrast_to_black > contrast_to_white else (255, 255, 255)


def draw_instances(
    image: Pixels,
    instances: Instances,
    classes: Sequence[str],
    palette: Sequence[Colour] | None = None,
    ignored: Instances | None = None,
) -> Pixels:
    """Draws masks, boxes and labels over an image. The objects with the highest scores are on top.

    Where labels would cover each other, only the objects with the highest scores are labelled.

    Args:
        image: (H, W, 3), RGB, uint8.
        instances: The objects to draw.
        classes: The names of the classes.
        palette: A colour for each class. By default the colours of :func:`make_palette`.
        ignored: Objects that training ignores, which are drawn grey.

    Returns:
        The drawing, RGB, uint8. The drawing has the image's size, or a multiple of the size if the image is small.

    Example:
        >>> image = np.full((480, 640, 3), 255, np.uint8)
        >>> boxes = np.array([[100, 100, 300, 200]], np.float32)
        >>> found = Instances(boxes, labels=np.array([0]), scores=np.array([0.9]))
        >>> draw_instances(image, found, classes=["cat"]).shape
        (480, 640, 3)
    """
    palette = palette or make_palette(len(classes))
    canvas, factor = _enlarge(image)
    objects: list[_Object] = []
    if ignored is not None:
        objects += _describe(ignored, classes, palette, factor, canvas.size, is_ignored=True)
    objects += _describe(instances, classes, palette, factor, canvas.size)

    size = _text_size(canvas.size)
    line = max(1, round(size / 7))
    pixels = np.array(canvas)
    for each in objects:
        if each.mask is not None:
            _blend_mask(pixels, each.mask, each.colour, factor, line)
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    for each in objects:
        pen.rectangle(each.box, outline=each.colour, width=line)
    _write_labels(pen, objects, canvas.size, load_font(size))
    return np.asarray(canvas)


@dataclass(frozen=True)
class _Object:
    """An object as it is drawn: the box in the drawing's pixels, the mask (H, W) in the image's pixels."""

    box: Box
    text: str
    colour: Colour
    mask: npt.NDArray[np.bool_] | None


def _describe(
    group: Instances,
    classes: Sequence[str],
    palette: Sequence[Colour],
    factor: int,
    size: tuple[int, int],
    is_ignored: bool = False,
) -> list[_Object]:
    """The objects in the order of drawing: the highest score last. Objects without a valid box are left out."""
    order = np.arange(len(group.boxes)) if group.scores is None else np.argsort(group.scores, kind="stable")
    objects = []
    for index in order:
        box = _clip(group.boxes[index] * factor, size)
        if box is None:
            continue
        text, colour = classes[int(group.labels[index])], palette[int(group.labels[index])]
        if is_ignored:
            text, colour = f"ignored {text}", _GREY
        elif group.scores is not None:
            text = f"{text} {group.scores[index]:.2f}"
        objects.append(_Object(box, text, colour, None if group.masks is None else group.masks[index]))
    return objects


def _write_labels(
    pen: ImageDraw.ImageDraw, objects: Sequence[_Object], size: tuple[int, int], font: ImageFont.FreeTypeFont
) -> None:
    """Writes the labels of objects. Labels without a free place are left out."""
    padding = _padding(font)
    labels: list[tuple[Box, str, Colour]] = []
    # The object with the highest score chooses its place first, and is written last.
    for each in reversed(objects):
        text = shorten(each.text, font, size[0] - 2 * padding)
        place = _find_place(each.box, text, font, size, [place for place, *_ in labels])
        if place is not None:
            labels.append((place, text, each.colour))
    for (left, top, right, bottom), text, colour in reversed(labels):
        pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        pen.text((left + padding, top + padding // 2), text, fill=ink_on(colour), font=font)


def draw_label_map(
    image: Pixels,
    label_map: npt.NDArray[np.integer],
    classes: Sequence[str],
    palette: Sequence[Colour] | None = None,
    legend: bool = True,
) -> Pixels:
    """Blends a label map over an image. A legend to the right lists the classes by their share of the pixels.

    Args:
        image: (H, W, 3), RGB, uint8.
        label_map: (H, W), class indices. The value 255 is ignored: grey stripes. Other values that are not class
            indices get magenta stripes.
        classes: The names of the classes.
        palette: A colour for each class. By default the colours of :func:`make_palette`.
        legend: Whether the drawing has a legend. Otherwise the names of large classes are written on their pixels.

    Returns:
        The drawing, RGB, uint8. Its size depends only on the image's size and the names of the classes, so the drawings
        of a video's frames have the same size.

    Example:
        >>> image, label_map = np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), int)
        >>> label_map[:, 256:] = 1
        >>> drawing = draw_label_map(image, label_map, classes=["road", "sky"])
        >>> drawing.shape[0], drawing.shape[1] > 512
        (512, True)
    """
    palette = palette or make_palette(len(classes))
    canvas, factor = _enlarge(image)
    count = len(classes)
    # Ignored pixels get the label count, other invalid values get count + 1.
    is_class = (label_map >= 0) & (label_map < count)
    labels = np.where(is_class, label_map, count + (label_map != IGNORED))
    names = [*classes, *_OTHERS]
    palette = [*palette[:count], *_OTHERS.values()]
    shares = np.bincount(labels.ravel(), minlength=count + 2) / labels.size
    present = [index for index in np.argsort(-shares, kind="stable") if shares[index]]
    entries = [(names[index], palette[index], shares[index]) for index in present]

    size = _text_size(canvas.size)
    labels = labels.repeat(factor, axis=0).repeat(factor, axis=1)  # (H * factor, W * factor)
    colours = np.array(palette, np.float32)[labels]
    opacity = np.full((*labels.shape, 1), _COVER, np.float32)
    rows, columns = np.indices(labels.shape, sparse=True)
    is_stripe = (rows + columns) // max(2, size // 2) % 2 == 0
    opacity[(labels >= count) & is_stripe] = 0.95
    opacity[_edges(labels, max(1, round(size / 6)))] = 1
    # A paler image shifts the colours of the classes less.
    ground = Image.blend(canvas, canvas.convert("L").convert("RGB"), 0.3)
    pixels = np.asarray(ground) * (1 - opacity) + colours * opacity
    drawing = pixels.round().astype(np.uint8)
    if not legend:
        return _write_names(Image.fromarray(drawing), labels, entries, names, load_font(size))
    return _add_legend(Image.fromarray(drawing), entries, classes, load_font(size))


def _write_names(
    canvas: Image.Image,
    labels: npt.NDArray[np.integer],
    entries: list[tuple[str, Colour, float]],
    names: Sequence[str],
    font: ImageFont.FreeTypeFont,
) -> Pixels:
    """Writes the names of the largest classes on their pixels. Names without a free place are left out."""
    pen = ImageDraw.Draw(canvas)
    padding = _padding(font)
    ascent, descent = font.getmetrics()
    taken: list[Box] = []
    for name, colour, share in entries:
        text = shorten(name, font, canvas.width - 2 * padding)
        width, height = math.ceil(font.getlength(text)) + 2 * padding, ascent + descent + padding
        if share < _NAMED:
            break
        rows, columns = np.nonzero(labels == names.index(name))
        # The centre may be outside the class, so the pixel of the class that is nearest to the centre gets the name.
        nearest = np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2)
        left = float(np.clip(columns[nearest] - width / 2, 0, max(0, canvas.width - width)))
        top = float(np.clip(rows[nearest] - height / 2, 0, max(0, canvas.height - height)))
        place = (left, top, left + width, top + height)
        if not any(_overlap(place, other) for other in taken):
            taken.append(place)
            pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
            pen.text((left + padding, top + padding // 2), text, fill=ink_on(colour), font=font)
    return np.asarray(canvas)


def _enlarge(image: Pixels) -> tuple[Image.Image, int]:
    """Enlarges a small image. Returns the image and the factor."""
    height, width = image.shape[:2]
    factor = max(1, round(_SMALL / max(height, width)))
    size = (factor * width, factor * height)
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), factor


def _text_size(size: tuple[int, int]) -> int:
    """The height of text in pixels for a drawing of this (width, height)."""
    return max(12, round(0.02 * math.sqrt(size[0] * size[1])))


def _clip(box: npt.NDArray[np.floating], size: tuple[int, int]) -> Box | None:
    """Clips a box to the drawing. None for a box with infinite or NaN corners."""
    if not np.isfinite(box).all():
        return None
    limits = np.array([*size, *size]) - 1
    x1, y1, x2, y2 = np.clip(box, 0, limits).tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _blend_mask(pixels: Pixels, mask: npt.NDArray[np.bool_], colour: Colour, factor: int, line: int) -> None:
    """Blends a mask and its outline into the pixels, in place."""
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
    """Marks pixels whose label differs from the label at a distance of ``line`` pixels in any of four directions."""
    found = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        values, marks = np.moveaxis(labels, axis, 0), np.moveaxis(found, axis, 0)  # views
        step = min(line, len(values))
        different = values[step:] != values[:-step]
        marks[step:] |= different
        marks[:-step] |= different
    return found


def _padding(font: ImageFont.FreeTypeFont) -> int:
    return max(1, round(font.size / 6))


def _find_place(
    box: Box, text: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], taken: Sequence[Box]
) -> Box | None:
    """Places a label at a corner of its box: the first corner where the label covers least of other labels.

    None if the label would cover too much of them.
    """
    ascent, descent = font.getmetrics()
    width, height = math.ceil(font.getlength(text)) + 2 * _padding(font), ascent + descent + _padding(font)
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height)]
    corners += [(x2 - width, y) for _, y in corners]
    places = []
    for x, y in corners:
        left, top = max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height))
        places.append((left, top, left + width, top + height))
    covered = [sum(_overlap(place, other) for other in taken) for place in places]
    best = int(np.argmin(covered))  # the first one of equals
    return places[best] if covered[best] <= _HIDDEN * width * height else None


def _overlap(one: Box, other: Box) -> float:
    """The common area of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


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
    """Adds a legend to the right of a drawing. A low drawing gets higher, so that the legend has a few rows."""
    row, pad = round(1.6 * font.size), round(0.6 * font.size)
    names = max(font.getlength(name) for name in (*classes, *_OTHERS, "and 999 more"))
    names = min(names, 14 * font.size)
    share = math.ceil(font.getlength("99.9 %"))
    width = math.ceil(4 * pad + font.size + names + share)
    height = max(canvas.height, row * min(len(classes) + len(_OTHERS), 8) + 2 * pad)
    drawing = Image.new("RGB", (canvas.width + width, height), (255, 255, 255))
    drawing.paste(canvas)
    pen = ImageDraw.Draw(drawing)
    rows = (height - 2 * pad) // row
    omitted = 0
    if len(entries) > rows:
        omitted = len(entries) - rows + 1
        entries = entries[: rows - 1]
    x, y = canvas.width + pad, pad
    for name, colour, part in entries:
        pen.rectangle((x, y, x + font.size, y + font.size), fill=colour, outline=(0, 0, 0))
        pen.text((x + font.size + pad, y), shorten(name, font, names), fill=(0, 0, 0), font=font)
        pen.text((drawing.width - pad, y), _percent(part), fill=(0, 0, 0), font=font, anchor="ra")
        y += row
    if omitted:
        pen.text((x + font.size + pad, y), f"and {omitted} more", fill=(90, 90, 90), font=font)
    return np.asarray(drawing)
