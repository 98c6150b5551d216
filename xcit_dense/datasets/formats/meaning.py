"""Finds out which class the pixels of label images have: by a table, by their values, or by well-known colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.datasets.formats.colours import (
    EXAMPLE,
    VOC_BORDER,
    WITH_TRANSPARENCY,
    Table,
    by_number,
    colours_of,
    grey,
    read_table,
    read_with_table,
    voc_palette,
)
from xcit_dense.datasets.formats.label_maps import counts
from xcit_dense.datasets.formats.labels import LabelData, Pair, ReadLabel
from xcit_dense.errors import UserError
from xcit_dense.media.images import UNREADABLE
from xcit_dense.structures import IGNORED, Colour
from xcit_dense.utils.progress import tracked

_WHITE = (IGNORED, 65535)  # what programs write for the object in masks of 8 and 16 bits
_COLOURS = 64  # label images with more colours are photographs, or were saved with smoothing or as JPEG
_LISTED = 12


def interpret(
    data: LabelData, given: Sequence[str] | None = None, *, ignore_zero: bool = False, colours: Path | None = None
) -> LabelData:
    """Finds out the classes of a data set, and how its label images are read.

    Args:
        data: The data set, as a reader returns it.
        given: The names of the classes, in the order of their values. None takes the names from the data.
        ignore_zero: Whether 0 marks pixels without a label, so that the classes start at 1.
        colours: A table of colours (:func:`xcit_dense.datasets.formats.colours.read_table`). None takes the table
            of the data, if it has one.

    Returns:
        The data set with ``classes``, and with ``read_label`` if the label images do not contain the numbers of the
        classes already. ``notes`` says what was recognised.

    Raises:
        UserError: The label images do not fit the classes, or nothing says what their colours mean.
    """
    if data.read_label is not None:
        if colours:
            raise UserError(f"--colours is for label images, but the data is {data.format}; remove --colours.")
        if ignore_zero:
            raise UserError(f"--ignore-zero is for label images, but the data is {data.format}; remove --ignore-zero.")
        return data if given is None else _choose_classes(data, data.read_label, given)
    if colours:
        data = replace(data, table=read_table(colours))
    table = data.table
    if table and not table.is_identity:
        return _use_table(data, table, given, ignore_zero)
    if table:
        data = replace(data, classes=table.classes, palette=table.palette or data.palette)
    names = given if given is not None else data.classes
    ignore_zero = ignore_zero or (given is None and data.ignore_zero)
    found = _scan(data, stops_early=names is not None)
    if found.colours or found.too_many:
        return _use_colours(data, found, names, ignore_zero)
    if found.is_binary and not ignore_zero:
        return _use_binary(data, found, names)
    if found.has_bands:
        data = replace(data, read_label=partial(read_values, data.root), layout=None)
    if names is None:
        names, ignore_zero = _number_classes(data, found, ignore_zero)
    return _with_classes(data, names, ignore_zero)


def with_classes_of(data: LabelData, kept: Sequence[str]) -> LabelData:
    """Numbers the classes of a data set as a trained model numbers them.

    Args:
        data: The data set, as :func:`interpret` returns it. If its classes have no names, their numbers count.
        kept: The names of the model's classes.

    Returns:
        The data set. Classes that the model does not have are ignored.

    Raises:
        UserError: The data set has none of the model's classes.
    """
    names = list(data.classes or ())
    if names == list(kept):
        return data
    if all(name.startswith("class ") for name in names) and len(names) <= len(kept):
        return replace(data, classes=tuple(kept), palette=None)
    unknown = [name for name in names if name not in kept]
    if len(unknown) == len(names):
        raise UserError(
            f"The data in {data.root} has the classes {', '.join(names[:12])}, but the model has the classes "
            f"{', '.join(kept[:12])}; test with data of the same classes."
        )
    read = data.read_label or partial(read_values, data.root)
    first = int(data.ignore_zero)
    lookup = np.full(IGNORED + 1, IGNORED, np.uint8)
    lookup[first : first + len(names)] = [kept.index(name) if name in kept else IGNORED for name in names]
    note = f"{len(unknown)} classes that the model does not have are ignored: {', '.join(unknown[:12])}"
    return replace(
        data,
        classes=tuple(kept),
        palette=None,
        ignore_zero=False,
        read_label=lambda pair: np.take(lookup, read(pair)),
        layout=None,
        notes=(*data.notes, note) if unknown else data.notes,
    )


def _choose_classes(data: LabelData, read: ReadLabel, given: Sequence[str]) -> LabelData:
    """Keeps some classes of painted objects. Other objects become background."""
    names = list(data.classes or ())
    unknown = [name for name in given if name not in names]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the classes of {data.root} are {', '.join(names)}; write some "
            "of these names."
        )
    classes = [name for name in names if name in given or name == names[0]]
    lookup = np.full(IGNORED + 1, IGNORED, np.uint8)
    lookup[: len(names)] = [classes.index(name) if name in classes else 0 for name in names]
    return replace(data, classes=tuple(classes), read_label=lambda pair: np.take(lookup, read(pair)))


@dataclass
class _Found:
    """What the label images contain.

    Attributes:
        values: The values of images with one value a pixel, :data:`IGNORED` included.
        colours: The number of pixels of each colour, in images with several bands. Empty if all their pixels are grey.
        too_many: A label image with very many colours. Empty if there is none.
        has_bands: Whether an image has its values in several equal bands.
    """

    values: set[int] = field(default_factory=set)
    colours: Counter[Colour] = field(default_factory=Counter)
    too_many: str = ""
    has_bands: bool = False

    def take_greys_as_values(self) -> None:
        """Reads images with several bands as values if all their pixels are grey."""
        if all(red == green == blue for red, green, blue in self.colours) and not self.too_many:
            self.values |= {red for red, _, _ in self.colours}
            self.colours.clear()

    @property
    def is_binary(self) -> bool:
        """Whether the values are only 0 and white."""
        return len(self.values) == 2 and 0 in self.values and max(self.values) in _WHITE


def _scan(data: LabelData, stops_early: bool) -> _Found:
    """Reads the label images.

    Args:
        data: The data set.
        stops_early: Whether to stop at an image that has other values than 0 and white.
    """
    found = _Found()
    paths = [data.root / label for label in sorted({pair.label for pairs in data.splits.values() for pair in pairs})]
    fault = "they do not exist"
    readable = 0
    for path in tracked("label maps read", paths):
        if not path.is_file():
            continue  # the check reports the missing file
        try:
            with Image.open(path) as image:
                has_bands = len(image.getbands()) > 1
                label = grey(image)
                values = set(counts(label)) if not has_bands or image.mode in WITH_TRANSPARENCY else set()
                colours = colours_of(image, _COLOURS) if has_bands and not values else {}
        except UNREADABLE as error:
            fault = f"{path} cannot be read ({error})"
            continue
        readable += 1
        found.values |= values
        found.has_bands = found.has_bands or has_bands
        if colours is None:
            found.too_many = found.too_many or str(path)
        else:
            found.colours.update(colours)
        if stops_early and not found.values <= {0, *_WHITE}:
            break
    found.take_greys_as_values()
    if paths and not readable:
        raise UserError(f"None of {len(paths):,} label maps can be read: {fault}; export the label maps again.")
    return found


def _use_table(data: LabelData, table: Table, given: Sequence[str] | None, ignore_zero: bool) -> LabelData:
    if given is not None and list(given) != list(table.classes):
        raise UserError(
            f"--classes names {', '.join(given)}, but {table.source} names {', '.join(table.classes)}; write "
            "--classes auto, or change the names there."
        )
    if ignore_zero:
        raise UserError(
            f"--ignore-zero does not fit a table of colours; remove the class without a label from {table.source}, or "
            f"give it the colour {','.join(map(str, VOC_BORDER))}."
        )
    return _with_table(data, table, f"The classes of the label images come from {table.source}.")


def _use_colours(data: LabelData, found: _Found, names: Sequence[str] | None, ignore_zero: bool) -> LabelData:
    """Reads label images with colours that are known without a table."""
    colours = set(found.colours) - {VOC_BORDER}
    voc = voc_palette()
    example = data.root / next(iter(data.splits["train"])).label
    if found.too_many:
        raise UserError(
            f"The label image {found.too_many} has more than {_COLOURS} colours, so it is a photograph, or was saved "
            "with smoothing or as JPEG; export label images as PNG, one colour for each class."
        )
    if (0, 0, 0) in colours and len(colours) == 2 and not ignore_zero and (names is None or len(names) == 2):
        (other,) = colours - {(0, 0, 0)}
        table = by_number("black and another colour", names or ("background", "object"), [(0, 0, 0), other])
        values = {**table.values, **dict.fromkeys(_WHITE, 1)}
        first, second = table.classes
        note = f"The label images have two colours: black is read as {first!r}, and {other} as {second!r}."
        return _with_table(data, replace(table, values=values), note)
    last = max((voc.index(colour) for colour in colours if colour in voc), default=0)
    start = int(ignore_zero)
    is_complete = len(names) > last - start if names else 2 * len(colours) > last + 1
    if colours <= set(voc) and len(colours) > 2 and is_complete:
        names = names or [f"class {number}" for number in range(start, last + 1)]
        note = f"The label images have {len(colours)} colours of Pascal VOC's palette, which numbers the classes."
        return _with_table(data, by_number("Pascal VOC's palette", names, voc, start), note)
    shown = [f"{red},{green},{blue}" for (red, green, blue), _ in found.colours.most_common(_LISTED)]
    more = ", ..." if len(found.colours) > len(shown) else ""
    raise UserError(
        f"The label images such as {example} have {len(found.colours)} colours ({'; '.join(shown)}{more}), and nothing "
        f"says which classes these are; write --colours FILE with {EXAMPLE}, or put the file as labelmap.txt into "
        f"{data.root}."
    )


def _use_binary(data: LabelData, found: _Found, names: Sequence[str] | None) -> LabelData:
    """Reads masks of 0 and 255."""
    white = max(found.values)
    if names is not None and len(names) != 2:
        raise UserError(
            f"The label maps in {data.root} contain only the values 0 and {white}, which are background and object, "
            f"but there are {len(names)} class names ({', '.join(names[:5])}); name two classes, or number the classes "
            "from 0 in the label maps."
        )
    first, second = names or ("background", "object")
    note = f"The label maps contain only 0 and {white}: 0 is read as {first!r}, and {white} as {second!r}."
    values = {0: 0, **dict.fromkeys(_WHITE, 1)}
    return _with_table(data, Table("a mask of two values", (first, second), {}, values), note)


def _number_classes(data: LabelData, found: _Found, ignore_zero: bool) -> tuple[list[str], bool]:
    """Names the classes by their values."""
    values = found.values - {IGNORED}
    train = (data.root / next(iter(data.splits["train"])).label).parent
    last = max(values, default=0)
    if last > IGNORED:
        raise UserError(
            f"Label maps in {train} contain values up to {last}, but MMSegmentation reads 0 to 255; number the classes "
            "from 0."
        )
    ignore_zero = ignore_zero or 0 not in values  # without zeros, ignoring them loses nothing
    classes = [f"class {value}" for value in range(int(ignore_zero), last + 1)]
    if 2 * len(values) < len(classes):
        raise UserError(
            f"The label maps in {train} contain {len(values)} values of 0 to {last} "
            f"({', '.join(map(str, sorted(values)[:8]))}), so most classes would be empty; number them 0, 1, 2 and "
            "so on, name the classes of all values in classes.txt, or write --colours FILE with lines like '128, road'."
        )
    return classes, ignore_zero


def _with_table(data: LabelData, table: Table, note: str) -> LabelData:
    read = partial(_read_pair, data.root, table)
    data = replace(data, palette=table.palette or data.palette, read_label=read, layout=None)
    return _with_classes(replace(data, notes=(*data.notes, note)), table.classes, False)


def _with_classes(data: LabelData, names: Sequence[str], ignore_zero: bool) -> LabelData:
    if len(names) < 2:
        train = (data.root / next(iter(data.splits["train"])).label).parent
        raise UserError(
            f"The label maps in {train} have {len(names)} class{'es' * (len(names) != 1)} "
            f"({'0 and 255 are' if ignore_zero else '255 is'} ignored), but segmentation needs two; number the classes "
            "from 0, for example 0 for background and 1 (not 255) for the object."
        )
    return replace(data, classes=tuple(names), ignore_zero=ignore_zero)


def _read_pair(root: Path, table: Table, pair: Pair) -> npt.NDArray[np.uint8]:
    return read_with_table(root / pair.label, table)


def read_values(root: Path, pair: Pair) -> npt.NDArray[np.uint8]:
    """Reads a label image that contains the numbers of the classes.

    Args:
        root: The data directory.
        pair: The pair of the label image.

    Returns:
        (H, W): the values. Transparency is not read.

    Raises:
        UserError: The image has colours, or values above 255.
    """
    with Image.open(root / pair.label) as image:
        values: npt.NDArray[np.integer] = np.asarray(grey(image))
    if values.ndim > 2 or values.max(initial=0) > IGNORED:
        raise UserError(f"{root / pair.label} has colours or values above 255; number the classes from 0.")
    return values.astype(np.uint8)
