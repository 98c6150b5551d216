"""Checks annotation files in COCO's format and their images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from xcit_dense.datasets.checks.report import Mark, Report
from xcit_dense.datasets.checks.sample import are_numbers, by, count_classes, has, mark_sample, read_size, sampled
from xcit_dense.datasets.formats.coco import read_json
from xcit_dense.errors import UserError
from xcit_dense.utils.progress import tracked

NO_OBJECTS = "annotation files without any usable object"
"""The fault of a file that a training cannot learn from, and a test cannot compare with."""

_ID = (int, str)
_MANY = 0.1  # the share of boxes beyond the image from which on a warning becomes an error


def check_coco(
    annotations: Path,
    images: Path,
    classes: Sequence[str],
    *,
    masks: bool = True,
    min_size: int = 0,
    leaves_out_empty: bool = False,
    needs_objects: bool = True,
    limit: int | None = None,
    bands: Sequence[int] = (),
) -> Report:
    """Checks an annotation file in COCO's format and the images that the file names.

    Args:
        annotations: The JSON file. Like MMDetection, the check reads the complete file into memory.
        images: The directory of the images.
        classes: The names of the categories in use. Objects of other categories are not checked.
        masks: Whether every object needs a mask.
        min_size: Training leaves out images with a side below this many pixels.
        leaves_out_empty: Whether training leaves out images without objects.
        needs_objects: Whether a file without any object is an error. A run that only writes predictions does not need
            objects.
        limit: The largest number of images to open, evenly spread over the file. None opens all images.
        bands: The numbers of the bands that training reads. Empty if training reads ordinary images.

    Returns:
        The faults.

    Raises:
        UserError: The file is not valid JSON, or does not have the lists images, annotations and categories.

    Example:
        >>> from xcit_dense.datasets.shapes import CLASSES, write_shapes
        >>> root = write_shapes("checked-coco", train=4, val=1, size=64)
        >>> (root / "train2017/000000000002.jpg").unlink()
        >>> report = check_coco(root / "annotations/instances_train2017.json", root / "train2017", CLASSES)
        >>> report.summary
        '4 images, 11 objects, 4 classes'
        >>> report.faults["missing images"].places
        ['000000000002.jpg']
    """
    content = _read_coco(annotations)
    report = Report(annotations)
    entries = _check_images(report, content["images"], images, min_size)
    names = _check_categories(report, content["categories"], classes)
    objects = _check_annotations(report, content["annotations"], images, entries, names, masks)
    del content
    opened = _check_image_files(report, images, entries, limit, bands)
    for name in classes:
        if not objects.by_class[name]:
            report.warning("classes without objects", name)
    empty = "images without objects" + (", which training leaves out" if leaves_out_empty else "")
    used = 0  # images that training uses
    for image_id, entry in entries.items():
        is_empty = not objects.by_image[image_id]
        if is_empty:
            report.warning(empty, entry.name, Mark(images / entry.name))
        used += entry.shorter >= min_size and not (is_empty and leaves_out_empty)
    total = objects.by_class.total()
    if not total and objects.crowds:
        what = (
            "annotation files whose objects all have iscrowd=1 (if they are single objects, write --crowd-as-objects)"
        )
        report.error(what, annotations.name)
    elif not total and needs_objects:
        report.error(NO_OBJECTS, annotations.name)
    elif total and not used:
        report.error("annotation files of which training leaves out every image", annotations.name)
    count = len(entries)
    report.summary = f"{count:,} images{sampled(opened, count)}, {total:,} objects, {count_classes(len(classes))}"
    return report


@dataclass(frozen=True)
class _Image:
    """An image's entry in an annotation file: the file's name, and the size in pixels."""

    name: str
    width: float
    height: float

    @property
    def size(self) -> tuple[float, float]:
        return self.width, self.height

    @property
    def shorter(self) -> float:
        return min(self.width, self.height)


@dataclass(frozen=True)
class _Objects:
    """The numbers of usable objects, by class name and by image id, and the places of crowds."""

    by_class: Counter[str] = field(default_factory=Counter)
    by_image: Counter[Any] = field(default_factory=Counter)
    crowds: list[tuple[str, Mark]] = field(default_factory=list)


def _read_coco(annotations: Path) -> dict[str, list[Any]]:
    content = read_json(annotations)
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
        raise UserError(f"{annotations} is not in COCO's format; the format needs the lists {', '.join(lists)}.")
    return content


def _check_categories(report: Report, categories: list[Any], classes: Sequence[str]) -> dict[Any, str | None]:
    """The names by category id. The name is None if the category is not in use."""
    names: dict[Any, str | None] = {}
    for number, category in enumerate(categories, start=1):
        if not has(category, id=_ID, name=str):
            report.error("categories without a valid id or name", f"entry {number} of the list")
            continue
        if category["id"] in names:
            report.error("category ids given twice", f"{category['id']}")
        if category["name"] in names.values():
            report.error("category names given twice", str(category["name"]))
        names[category["id"]] = category["name"] if category["name"] in classes else None
    return names


def _check_images(report: Report, images: list[Any], directory: Path, min_size: int) -> dict[Any, _Image]:
    """The valid entries by image id."""
    entries: dict[Any, _Image] = {}
    for number, image in enumerate(images, start=1):
        if not has(image, id=_ID, file_name=str) or not are_numbers(image.get("width"), image.get("height")):
            report.error("images without a valid id, file_name, width or height", f"entry {number} of the list")
            continue
        image_id, entry = image["id"], _Image(image["file_name"], image["width"], image["height"])
        if image_id in entries:
            report.error("image ids given twice", f"{image_id}: {entries[image_id].name}, {entry.name}")
        entries[image_id] = entry
        if entry.shorter < min_size:
            what = f"images with a side below {min_size}, which training leaves out"
            report.warning(what, entry.name, Mark(directory / entry.name))
    return entries


def _check_annotations(
    report: Report,
    annotations: list[Any],
    images: Path,
    entries: Mapping[Any, _Image],
    names: Mapping[Any, str | None],
    masks: bool,
) -> _Objects:
    """Counts the usable objects."""
    objects = _Objects()
    ids = set()
    boxes = 0
    beyond = []  # places of boxes that reach beyond their image
    for number, annotation in enumerate(annotations, start=1):
        if not has(annotation, id=int, image_id=_ID, category_id=_ID) or not are_numbers(annotation.get("area")):
            where = f"annotation {annotation['id']}" if has(annotation, id=int) else f"entry {number} of the list"
            report.error("annotations without a valid id, image_id, category_id or area", where)
            continue
        where = f"annotation {annotation['id']}"
        if annotation["id"] in ids:
            report.error("annotation ids given twice", f"{annotation['id']}")
        ids.add(annotation["id"])
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        if image_id not in entries:
            report.error("annotations of unknown images", f"{where}: image_id {image_id}")
            continue
        if category_id not in names:
            report.error("annotations of unknown categories", f"{where}: category_id {category_id}")
            continue
        name, image = names[category_id], entries[image_id]
        if name is None:
            continue
        where += f" in {image.name}"
        mark = partial(_mark, images / image.name, annotation)
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and are_numbers(*box)):
            report.error("boxes that are not four finite numbers", f"{where}: {box}", mark())
            continue
        boxes += 1
        if not _check_box(report, box, annotation["area"], image, where, mark):
            continue
        if _reaches_beyond(box, image):
            beyond.append((f"{where}: {box} in {image.width} x {image.height}", mark()))
        if masks and not _check_mask(report, annotation.get("segmentation"), image, where, mark):
            continue
        objects.by_image[image_id] += 1
        if annotation.get("iscrowd") not in (0, 1, None):
            report.error("objects whose iscrowd is neither 0 nor 1", f"{where}: {annotation['iscrowd']!r}", mark())
        elif annotation.get("ignore"):
            report.warning("objects with ignore=1, which training leaves out", where, mark())
        elif annotation.get("iscrowd"):
            objects.crowds.append((where, mark()))
        else:
            objects.by_class[name] += 1
    if objects.by_class:
        for where, place in objects.crowds:
            what = "objects with iscrowd=1, which training leaves out and a test ignores (see --crowd-as-objects)"
            report.warning(what, where, place)
    # Few such boxes come from careless drawing. Many come from another box format or from annotations of other images.
    for where, place in beyond:
        if len(beyond) > _MANY * boxes:
            report.error("boxes that reach beyond their image (are they x, y, width, height in pixels?)", where, place)
        else:
            report.warning("boxes that reach beyond their image", where, place)
    return objects


def _mark(path: Path, annotation: Mapping[str, Any]) -> Mark:
    """The place of an object on its image: the box and the polygons, as far as they are valid."""
    box, polygons = annotation.get("bbox"), annotation.get("segmentation")
    corners = None
    if isinstance(box, list) and len(box) == 4 and are_numbers(*box):
        corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    outlines = []
    if isinstance(polygons, list):
        outlines = [each for each in polygons if isinstance(each, list) and are_numbers(*each)]
    return Mark(path, corners, outlines)


def _check_box(
    report: Report, box: list[float], area: float, image: _Image, where: str, mark: Callable[[], Mark]
) -> bool:
    """Whether training uses a box of an image."""
    x, y, width, height = box
    if width < 1 or height < 1 or area <= 0:  # MMDetection's rule
        what = "boxes less than a pixel wide or high, or of area 0, which training leaves out"
        report.warning(what, f"{where}: {box}", mark())
        return False
    visible_width = min(x + width, image.width) - max(x, 0)
    visible_height = min(y + height, image.height) - max(y, 0)
    if visible_width <= 0 or visible_height <= 0:
        report.error("boxes outside their image", f"{where}: {box} in {image.width} x {image.height}", mark())
        return False
    return True


def _reaches_beyond(box: list[float], image: _Image) -> bool:
    """Whether a box leaves its image by more than a pixel."""
    x, y, width, height = box
    return min(x, y) < -1 or x + width > image.width + 1 or y + height > image.height + 1


def _check_mask(report: Report, mask: Any, image: _Image, where: str, mark: Callable[[], Mark]) -> bool:
    """Whether training uses a mask: polygons, or a run-length code of the image's size."""
    if not mask or mask == [[]]:
        report.error("objects without a mask", where, mark())
    elif isinstance(mask, list) and all(isinstance(polygon, list) for polygon in mask):
        if not all(map(_are_finite, mask)):
            report.error("polygons that are not finite numbers", where, mark())
        elif any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask):
            return True
        else:
            report.warning(
                "objects whose polygons have fewer than three points, which training leaves out", where, mark()
            )
    elif has(mask, counts=(list, str), size=list):
        size, counts = [image.height, image.width], mask["counts"]
        if mask["size"] != size:
            report.error("masks of another size than their image", f"{where}: {mask['size']}, not {size}", mark())
        elif isinstance(counts, list) and not (_are_finite(counts) and sum(counts) == image.height * image.width):
            report.error("run-length codes whose sum is not the number of the image's pixels", where, mark())
        else:
            return True
    else:
        report.error("masks that are neither polygons, [[x, y, ...], ...], nor run-length codes", where, mark())
    return False


def _are_finite(values: list[Any]) -> bool:
    """Whether all values are finite numbers. The sum is quicker than a look at each value."""
    try:
        return math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def _check_image_files(
    report: Report, images: Path, entries: Mapping[Any, _Image], limit: int | None, bands: Sequence[int]
) -> int:
    """Checks that every image exists, and the sizes of a sample. Returns the number of opened images."""
    opened = 0
    for entry, is_sampled in tracked("images checked", mark_sample(list(entries.values()), limit)):
        path = images / entry.name
        opened += is_sampled
        if not path.is_file():
            report.error("missing images", entry.name, Mark(path))
        elif is_sampled:
            size = read_size(report, path, entry.name, entry.size, bands)
            if size and size != entry.size:
                where = f"{entry.name}: {by(size)}, not {by(entry.size)}"
                report.error("images of another size than their entry", where, Mark(path))
    return opened
