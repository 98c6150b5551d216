"""Tables that give classes to the colours or values of label images, as annotation tools write them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import UserError
from xcit_dense.structures import IGNORED, Colour

TABLE_FILES = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "_classes.csv")
"""The files that annotation tools write: CVAT and VOC; CVAT's Cityscapes and CamVid; Kaggle; Roboflow."""

EXAMPLE = "a line like 'road: 128,64,128' for each class, or name,r,g,b"
"""What a table looks like, for messages."""

VOC_BORDER: Colour = (224, 224, 192)
"""The colour that Pascal VOC gives to pixels without a label, at the borders of objects."""

WITH_TRANSPARENCY = ("LA", "La", "PA")
"""The modes of images that have one value a pixel and transparency."""

_HEX = re.compile(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})\b")
_COMMENT = re.compile(r"\s*(#|//)")
_RGB = r"(?P<red>\d{1,3})\s*[,;\s]\s*(?P<green>\d{1,3})\s*[,;\s]\s*(?P<blue>\d{1,3})"
_COLOUR_FIRST = re.compile(rf"\s*{_RGB}[,;:\s]+(?P<name>.*\S)\s*$")
_NAME_FIRST = re.compile(rf"\s*(?P<name>.*\S)\s*[,;:\s]\s*{_RGB}\s*([,;:].*)?$")
_VALUE_FIRST = re.compile(r"\s*(?P<value>\d{1,3})\s*[,;:]\s*(?P<name>.*\S)\s*$")
_NAME_BEFORE_VALUE = re.compile(r"\s*(?P<name>.*\S)\s*[,;:]\s*(?P<value>\d{1,3})\s*$")


@dataclass(frozen=True)
class Table:
    """The class of each colour or value in label images.

    Attributes:
        source: The table's file, or what it is called, for messages.
        classes: The names of the classes.
        colours: The class of each colour, an index into ``classes``, or :data:`IGNORED`. Empty in a table of values.
        values: The class of each value of images with one value a pixel, or :data:`IGNORED`.
    """

    source: str
    classes: tuple[str, ...]
    colours: Mapping[Colour, int]
    values: Mapping[int, int]

    @property
    def palette(self) -> tuple[Colour, ...] | None:
        """The first colour of each class. None if a class has no colour."""
        found: dict[int, Colour] = {}
        for colour, number in self.colours.items():
            found.setdefault(number, colour)
        if not all(number in found for number in range(len(self.classes))):
            return None
        return tuple(found[number] for number in range(len(self.classes)))

    @property
    def is_identity(self) -> bool:
        """Whether the values are the numbers of the classes already."""
        return not self.colours and all(value == number for value, number in self.values.items())


def find_table(directories: Iterable[Path]) -> Table | None:
    """Finds the table that an annotation tool has written.

    Args:
        directories: Where to look, in this order.

    Returns:
        The first table. None if no directory has a table.

    Raises:
        UserError: A file has the name of a table and another content.
    """
    for directory in directories:
        for name in TABLE_FILES:
            if (directory / name).is_file():
                return read_table(directory / name)
    return None


def read_table(path: Path) -> Table:
    r"""Reads a table of colours or values.

    A line gives the name of a class and its colour, in any order and with any separators: ``name: 128,64,128``
    (``labelmap.txt``), ``128 64 128 name`` (``label_colors.txt``), ``name,128,64,128`` (``class_dict.csv``). Or each
    line gives a value and a name: ``1, name`` (Roboflow's ``_classes.csv``). Lines of the same name are one class.
    Lines without a number, such as headings, and lines that begin with ``#`` are skipped.

    Args:
        path: The file.

    Returns:
        The table.

    Raises:
        UserError: The file does not exist, or gives a colour or value to no class or to two classes.

    Example:
        >>> _ = Path("labelmap.txt").write_text("# label:color_rgb\nsky:0,0,0::\nroad:128,64,128::\n")
        >>> table = read_table(Path("labelmap.txt"))
        >>> table.classes[table.colours[128, 64, 128]]
        'road'
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The colour table {path} cannot be read ({error}); write {EXAMPLE}.") from error
    lines = [line for line in map(_without_hex, text.splitlines()) if line.strip() and not _COMMENT.match(line)]
    colours = [match for line in lines if (match := _COLOUR_FIRST.match(line) or _NAME_FIRST.match(line))]
    if colours:
        return _make_table(path, [(_name(match), _colour(match)) for match in colours])
    values = [match for line in lines if (match := _VALUE_FIRST.match(line) or _NAME_BEFORE_VALUE.match(line))]
    if not values:
        raise UserError(f"The colour table {path} contains no colours; write {EXAMPLE}.")
    return _make_table(path, sorted(((_name(match), int(match["value"])) for match in values), key=itemgetter(1)))


def read_with_table(path: Path, table: Table) -> npt.NDArray[np.uint8]:
    """Reads a label image as a label map, by a table.

    Args:
        path: The label image: colours, colours with transparency, a palette, or one value a pixel.
        table: The class of each colour or value.

    Returns:
        (H, W): the numbers of the classes, and :data:`IGNORED`.

    Raises:
        UserError: The image contains a colour or a value that the table lacks.
    """
    with Image.open(path) as image:
        if table.colours and _has_colours(image):
            keys: npt.NDArray[np.integer] = pack(np.asarray(image.convert("RGB")))
            known = {int(pack(np.array(colour, np.uint8))): number for colour, number in table.colours.items()}
            is_colour = True
        else:
            keys, known, is_colour = np.asarray(grey(image)), dict(table.values), False
    if keys.ndim > 2:
        raise UserError(f"{path} has colours ({image.mode}), but {table.source} gives values; write {EXAMPLE}.")
    ordered = sorted(known)
    places = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
    is_unknown = np.take(ordered, places) != keys
    if is_unknown.any():
        unknown, counts = np.unique(keys[is_unknown], return_counts=True)
        raise UserError(_describe_unknown(path, table, unknown[np.argsort(-counts)], is_colour))
    return np.take(np.array([known[key] for key in ordered], np.uint8), places)


def grey(image: Image.Image) -> Image.Image:
    """Takes the only band of an image whose bands are equal. Transparency is left out.

    Args:
        image: An image.

    Returns:
        An image of one band if all pixels are grey. Otherwise the same image.
    """
    if image.mode in WITH_TRANSPARENCY:
        return image.getchannel(0)
    if image.mode in ("RGB", "RGBA", "RGBX"):
        red, green, blue = (image.getchannel(band) for band in range(3))
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return red
    return image


def colours_of(image: Image.Image, limit: int) -> dict[Colour, int] | None:
    """Counts the pixels of each colour.

    Args:
        image: The image. Transparency is not read.
        limit: The largest number of colours.

    Returns:
        The number of pixels by colour. None if there are more colours.
    """
    found = image.convert("RGB").getcolors(limit)
    return None if found is None else {colour: count for count, colour in found}  # type: ignore[misc]


def voc_palette() -> list[Colour]:
    """Makes the palette of Pascal VOC, which many tools use.

    Returns:
        256 colours, by value.

    Example:
        >>> voc_palette()[:3]
        [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    """
    colours: list[Colour] = []
    for value in range(256):
        red = green = blue = 0
        for bit in range(8):
            red |= (value >> (3 * bit) & 1) << (7 - bit)
            green |= (value >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (value >> (3 * bit + 2) & 1) << (7 - bit)
        colours.append((red, green, blue))
    return colours


def by_number(source: str, classes: Sequence[str], palette: Sequence[Colour], first: int = 0) -> Table:
    """Makes a table in which values number the classes, and a palette gives colours to the values.

    Args:
        source: What the table is called, for messages.
        classes: The names of the classes.
        palette: A colour for each value.
        first: The value of the first class. Smaller values are ignored.

    Returns:
        The table. :data:`VOC_BORDER` and the value 255 are ignored.
    """
    values = {value: value - first if value >= first else IGNORED for value in range(first + len(classes))}
    colours = {VOC_BORDER: IGNORED, **{palette[value]: number for value, number in values.items()}}
    return Table(source, tuple(classes), colours, {**values, IGNORED: IGNORED})


def _without_hex(line: str) -> str:
    """Replaces a colour such as ``#804080`` by its three numbers."""
    return _HEX.sub(lambda match: ",".join(str(int(part, 16)) for part in match.groups()), line)


def _name(match: re.Match[str]) -> str:
    return match["name"].strip(" \t,;:\"'")


def _colour(match: re.Match[str]) -> Colour:
    return int(match["red"]), int(match["green"]), int(match["blue"])


def _make_table(path: Path, rows: Sequence[tuple[str, Colour | int]]) -> Table:
    classes: list[str] = []
    colours: dict[Colour, int] = {}
    values: dict[int, int] = {IGNORED: IGNORED}
    for position, (name, key) in enumerate(rows):
        if not name or (isinstance(key, int) and key > 255) or (isinstance(key, tuple) and max(key) > 255):
            raise UserError(f"The colour table {path} gives {key} to {name!r}; write {EXAMPLE}, from 0 to 255.")
        number = IGNORED
        if key not in (VOC_BORDER, IGNORED):
            if name not in classes:
                classes.append(name)
            number = classes.index(name)
        if isinstance(key, int):
            taken, values[key] = values.get(key, number), number
        else:
            taken, colours[key] = colours.get(key, number), number
            values[position] = number  # tools number the classes in the order of the table
        if taken != number:
            raise UserError(f"The colour table {path} gives {key} to two classes, {classes[taken]} and {name}.")
    if colours and all(red == green == blue for red, green, blue in colours):
        values = {IGNORED: IGNORED, **{red: number for (red, _, _), number in colours.items()}}
    elif colours:
        colours.setdefault(VOC_BORDER, IGNORED)
    return Table(str(path), tuple(classes), colours, values)


def pack(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Writes colours as single numbers.

    Args:
        colours: (..., 3), RGB.

    Returns:
        (...): red * 65536 + green * 256 + blue.
    """
    wide = colours.astype(np.uint32)
    return (wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]).astype(np.uint32)


def _has_colours(image: Image.Image) -> bool:
    """Whether the colours of a label image count, not its values: no value and no palette of greys only."""
    if image.mode != "P":
        return len(image.getbands()) > 2  # LA has one value and transparency
    palette = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    return not (palette == np.arange(len(palette))[:, None]).all()


def _describe_unknown(path: Path, table: Table, unknown: npt.NDArray[np.integer], is_colour: bool) -> str:
    listed = [str((key >> 16, key >> 8 & 255, key & 255)) if is_colour else str(key) for key in unknown[:5].tolist()]
    what = "colours" if is_colour else "values"
    more = ", ..." if len(unknown) > len(listed) else ""
    return (
        f"{path} contains {len(unknown)} {what} that {table.source} lacks: {', '.join(listed)}{more}; add a line for "
        f"each, or save the label images without smoothing and without JPEG."
    )
