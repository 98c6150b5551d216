"""What is wrong with a data set, and where: found before a training meets it.

A fault is an error where the training would fail or learn something wrong, and a warning where the data is only poorer
than it looks. Annotation files are read whole, and no file may be missing. Pictures are opened for their headers and
label pictures for their values; of large sets a sample, as that takes long.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from xcit_dense.datasets.layouts import UNREADABLE, Split, counts, files_in
from xcit_dense.errors import UserError
from xcit_dense.structures import IGNORED
from xcit_dense.utils.progress import tracked

T = TypeVar("T")

SAMPLE = 2000
"""Pictures of a split that are enough to find what is wrong with many of them."""

_ID = (int, str)
_PLACES = 3  # shown of each fault
_ORIENTATION = 0x0112  # EXIF
_LYING = (5, 6, 7, 8)  # stored on their side, and turned by whoever reads them


@dataclass
class Fault:
    """One kind of thing that is wrong.

    Attributes:
        is_error: Whether training would fail or learn something wrong.
        count: How often it was found.
        places: Where, the first few.
    """

    is_error: bool
    count: int = 0
    places: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What a check found in one split.

    Attributes:
        source: The annotation file or directory.
        summary: What was looked at, with counts.
        faults: By what is wrong.
    """

    source: Path
    summary: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """How many kinds of errors there are."""
        return sum(fault.is_error for fault in self.faults.values())

    def error(self, what: str, where: str) -> None:
        """Notes an error and where it is."""
        self._note(what, where, True)

    def warning(self, what: str, where: str) -> None:
        """Notes a warning and what it concerns."""
        self._note(what, where, False)

    def _note(self, what: str, where: str, is_error: bool) -> None:
        fault = self.faults.setdefault(what, Fault(is_error))
        fault.count += 1
        if len(fault.places) < _PLACES:
            fault.places.append(where)

    def __str__(self) -> str:
        """The summary, then a line for each fault, errors first."""
        lines = [f"{self.source}: {self.summary}"]
        for what, fault in sorted(self.faults.items(), key=lambda item: not item[1].is_error):
            more = "; ..." if fault.count > len(fault.places) else ""
            kind = "error" if fault.is_error else "warning"
            lines.append(f"  {kind:7}  {what}: {fault.count:,} ({'; '.join(fault.places)}{more})")
        return "\n".join(lines)


def check_coco(
    annotations: Path,
    pictures: Path,
    classes: Sequence[str],
    *,
    masks: bool = True,
    min_size: int = 0,
    leaves_out_empty: bool = False,
    limit: int | None = None,
) -> Report:
    """Checks an annotation file in COCO's format and the pictures it names.

    Args:
        annotations: The JSON file. It is read whole, as MMDetection does.
        pictures: Directory of the pictures.
        classes: Names of the categories in use; objects of others are no concern.
        masks: Whether every object needs a mask.
        min_size: Pictures with a side below this many pixels are left out of training.
        leaves_out_empty: Whether pictures without objects are left out of training.
        limit: Pictures that are opened at most, evenly spread; None opens all.

    Returns:
        What was found.

    Raises:
        UserError: The file is no JSON, or no object with lists of images, annotations and categories.
    """
    content = _read(annotations)
    report = Report(annotations)
    names = _check_categories(report, content["categories"], classes)
    sizes, files = _check_images(report, content["images"], min_size)
    objects = _check_annotations(report, content["annotations"], sizes, files, names, masks)
    del content
    opened = 0
    for (picture, name), is_sample in tracked("pictures checked", _mark(list(files.items()), limit)):
        path = pictures / name
        opened += is_sample
        if not path.is_file():
            report.error("missing pictures", name)
        elif is_sample:
            size = _header(report, path, name)
            if size and size != sizes[picture]:
                report.error(
                    "pictures of another size than their entry", f"{name}: {_by(size)}, not {_by(sizes[picture])}"
                )
    of_class, of_picture = objects
    for name in classes:
        if not of_class[name]:
            report.warning("classes without objects", name)
    for picture, name in files.items():
        if not of_picture[picture]:
            out = ", which training leaves out" if leaves_out_empty else ""
            report.warning(f"pictures without objects{out}", name)
    if not of_class.total():
        report.error("annotation files without any usable object", annotations.name)
    elif all(min(sizes[picture]) < min_size or (leaves_out_empty and not of_picture[picture]) for picture in files):
        report.error("annotation files of which training leaves out every picture", annotations.name)
    report.summary = (
        f"{len(files):,} pictures{_say(opened, len(files))}, {of_class.total():,} objects, {len(classes)} classes"
    )
    return report


def check_labels(
    root: Path,
    split: Split,
    classes: Sequence[str],
    *,
    ignore_zero: bool = False,
    limit: int | None = None,
) -> Report:
    """Checks pictures and the label pictures beside them.

    Args:
        root: The data directory.
        split: Where both are in it.
        classes: Names of the classes, in the order of their values.
        ignore_zero: Whether 0 marks pixels without a label, and the classes begin with 1.
        limit: Pictures that are opened at most, with their labels, evenly spread; None opens all.

    Returns:
        What was found.
    """
    pictures, labels = root / split.pictures, root / split.annotations
    report = Report(pictures)
    # As MMSegmentation finds them: the case of suffixes counts.
    names = [name for name in files_in(pictures, [split.picture_suffix]) if name.endswith(split.picture_suffix)]
    pixels: Counter[int] = Counter()
    expected = set()
    opened = 0
    for name, is_sample in tracked("pictures checked", _mark(names, limit)):
        label = name.removesuffix(split.picture_suffix) + split.label_suffix
        expected.add(label)
        is_there = (labels / label).is_file()
        if not is_there:
            report.error("pictures without a label picture", label)
        opened += is_sample
        if is_sample:
            size = _header(report, pictures / name, name)
            if is_there:
                pixels.update(_check_label(report, labels / label, label, size, len(classes), ignore_zero))
    for label in files_in(labels, [split.label_suffix]):
        if label not in expected:
            report.warning("label pictures without a picture", label)
    numbered = list(enumerate(classes, start=int(ignore_zero)))
    for number, name in numbered:
        if not pixels[number]:
            report.warning("classes without pixels", name)
    if any(pixels[number] for number, _ in numbered) and not ignore_zero and not pixels[0]:
        hint = "labels without the value 0 (if values begin with 1, write --ignore-zero)"
        (report.error if pixels[len(classes)] else report.warning)(hint, str(labels))
    if not names:
        report.error("directories without pictures", f"{pictures}, *{split.picture_suffix}")
    elif not any(pixels[number] for number, _ in numbered):
        report.error("directories without any labelled pixel", str(labels))
    report.summary = f"{len(names):,} pictures{_say(opened, len(names))}, {len(classes)} classes"
    return report


def _mark(files: list[T], limit: int | None) -> list[tuple[T, bool]]:
    """Files, and whether each belongs to a sample of so many at most, evenly spread."""
    step = max(1, math.ceil(len(files) / limit)) if limit else 1
    return [(file, number % step == 0) for number, file in enumerate(files)]


def _say(opened: int, count: int) -> str:
    return f" ({opened:,} of them opened)" if opened < count else ""


def _read(annotations: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(annotations.read_text("utf-8"))  # as pycocotools, which refuses a byte order mark
    except ValueError as error:
        raise UserError(f"{annotations} is not valid JSON: {error}; write it, or copy it, once more.") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise UserError(f"{annotations} is not in COCO's format; it needs the lists {', '.join(lists)}.")
    return content


def _has(entry: Any, **kinds: Any) -> bool:
    """Whether an entry has these keys, with values of these types."""
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def _check_categories(report: Report, categories: list[Any], classes: Sequence[str]) -> dict[Any, str | None]:
    """Names by category id; None where a category is not in use."""
    names: dict[Any, str | None] = {}
    for number, category in enumerate(categories):
        if not _has(category, id=_ID, name=str):
            report.error("categories without a valid id or name", f"number {number + 1} of the list")
            continue
        if category["id"] in names:
            report.error("category ids given twice", f"{category['id']}")
        if category["name"] in names.values():
            report.error("category names given twice", str(category["name"]))
        names[category["id"]] = category["name"] if category["name"] in classes else None
    return names


def _check_images(
    report: Report, images: list[Any], min_size: int
) -> tuple[dict[Any, tuple[float, float]], dict[Any, str]]:
    """Sizes (width, height) and file names by picture id."""
    sizes: dict[Any, tuple[float, float]] = {}
    files: dict[Any, str] = {}
    for number, image in enumerate(images):
        if not _has(image, id=_ID, file_name=str) or not _are_numbers(image.get("width"), image.get("height")):
            report.error("pictures without a valid id, file_name, width or height", f"number {number + 1} of the list")
            continue
        if image["id"] in files:
            report.error("picture ids given twice", f"{image['id']}: {files[image['id']]}, {image['file_name']}")
        sizes[image["id"]] = (image["width"], image["height"])
        files[image["id"]] = image["file_name"]
        if min(sizes[image["id"]]) < min_size:
            report.warning(f"pictures with a side below {min_size}, which training leaves out", image["file_name"])
    return sizes, files


def _check_annotations(
    report: Report,
    annotations: list[Any],
    sizes: dict[Any, tuple[float, float]],
    files: dict[Any, str],
    names: dict[Any, str | None],
    masks: bool,
) -> tuple[Counter[str], Counter[Any]]:
    """Counts the usable objects, by class and by picture."""
    of_class: Counter[str] = Counter()
    of_picture: Counter[Any] = Counter()
    ids = set()
    beyond = []
    boxes = 0
    for number, annotation in enumerate(annotations):
        if not _has(annotation, id=int, image_id=_ID, category_id=_ID) or not _are_numbers(annotation.get("area")):
            where = f"annotation {annotation['id']}" if _has(annotation, id=int) else f"number {number + 1} of the list"
            report.error("annotations without a valid id, image_id, category_id or area", where)
            continue
        where = f"annotation {annotation['id']}"
        if annotation["id"] in ids:
            report.error("annotation ids given twice", f"{annotation['id']}")
        ids.add(annotation["id"])
        if annotation["image_id"] not in files:
            report.error("annotations of unknown pictures", f"{where}: image_id {annotation['image_id']}")
            continue
        if annotation["category_id"] not in names:
            report.error("annotations of unknown categories", f"{where}: category_id {annotation['category_id']}")
            continue
        name = names[annotation["category_id"]]
        if name is None:
            continue
        where += f" in {files[annotation['image_id']]}"
        box = annotation.get("bbox")
        if not _is_box(box):
            report.error("boxes that are not four finite numbers", f"{where}: {box}")
            continue
        boxes += 1
        x, y, width, height = box
        right, bottom = sizes[annotation["image_id"]]
        # As MMDetection: it passes over boxes narrower than a pixel.
        if width < 1 or height < 1 or annotation["area"] <= 0:
            report.warning(
                "boxes less than a pixel wide or high, or of area 0, which training leaves out", f"{where}: {box}"
            )
            continue
        if min(x + width, right) <= max(x, 0) or min(y + height, bottom) <= max(y, 0):
            report.error("boxes outside their picture", f"{where}: {box} in {right} x {bottom}")
            continue
        if min(x, y) < -1 or x + width > right + 1 or y + height > bottom + 1:
            beyond.append(f"{where}: {box} in {right} x {bottom}")
        if masks and not _check_mask(report, annotation.get("segmentation"), (bottom, right), where):
            continue
        of_picture[annotation["image_id"]] += 1
        if not (annotation.get("iscrowd") or annotation.get("ignore")):  # from these nothing is learnt
            of_class[name] += 1
    # A few are careless drawing. Many are another format, or annotations of other pictures.
    if len(beyond) > boxes / 10:
        hint = "boxes that reach beyond their picture (are they x, y, width, height in pixels?)"
        for where in beyond:
            report.error(hint, where)
    else:
        for where in beyond:
            report.warning("boxes that reach beyond their picture", where)
    return of_class, of_picture


def _check_mask(report: Report, mask: Any, size: tuple[float, float], where: str) -> bool:
    """Whether a mask can be used: polygons or a run-length code, of a picture of this height and width."""
    if not mask:
        report.error("objects without a mask", where)
    elif isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
        if any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
            return True
        report.warning("objects whose polygons have fewer than three points, which training leaves out", where)
    elif _has(mask, counts=(list, str), size=list):
        if tuple(mask["size"]) == size:
            return True
        report.error("masks of another size than their picture", f"{where}: {mask['size']}, not {list(size)}")
    else:
        report.error("masks that are neither polygons, [[x, y, ...], ...], nor run-length codes", where)
    return False


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and _are_numbers(*box)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _check_label(
    report: Report, path: Path, name: str, size: tuple[int, int] | None, classes: int, ignore_zero: bool
) -> dict[int, int]:
    """Pixels by value of a label picture, where it can be read."""
    try:
        with Image.open(path) as label:
            if size and label.size != size:
                report.error(
                    "label pictures of another size than their picture", f"{name}: {_by(label.size)}, not {_by(size)}"
                )
            if len(label.getbands()) > 1:
                report.error("label pictures that hold colours, not one value a pixel", f"{name}: {label.mode}")
                return {}
            pixels = counts(label)
    except UNREADABLE as error:
        report.error("unreadable label pictures", f"{name}: {error}")
        return {}
    first = int(ignore_zero)
    foreign = [value for value in pixels if not (value == IGNORED or 0 <= value < classes + first)]
    if foreign:
        listed = ", ".join(map(str, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        report.error(f"label pictures with values other than 0 to {classes + first - 1} and 255", f"{name}: {listed}")
    elif all(value == IGNORED or value < first for value in pixels):
        report.warning("pictures without any labelled pixel", name)
    return pixels


def _header(report: Report, path: Path, name: str) -> tuple[int, int] | None:
    """Width and height of a picture as training sees it: turned upright where its EXIF says so."""
    try:
        with Image.open(path) as picture:
            size, lies = picture.size, False
            with suppress(Exception):  # damaged notes, which who reads the pixels passes over
                lies = picture.getexif().get(_ORIENTATION) in _LYING
            return size[::-1] if lies else size
    except Image.DecompressionBombError:
        return None  # Pillow alone minds
    except UNREADABLE as error:
        report.error("unreadable pictures", f"{name}: {error}")
        return None


def _by(size: tuple[float, float]) -> str:
    return f"{size[0]} x {size[1]}"
