"""Images with objects, in COCO's structure: what the readers of all formats with boxes and polygons return."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from xcit_dense.datasets.formats.splits import Split
from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.media.bands import read_size
from xcit_dense.media.images import ImageError

Content = dict[str, list[Any]]
"""The content of a COCO file: the lists ``images``, ``annotations`` and ``categories``."""

_PLACES = 3  # this many places show where a fault is


class Notes:
    """What a reader passes over or changes: sentences with counts and the first places.

    Example:
        >>> notes = Notes()
        >>> notes.add("objects without a name, which are left out", "a.xml")
        >>> list(notes)
        ['objects without a name, which are left out: 1 (a.xml)']
    """

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._said: list[str] = []

    def add(self, what: str, where: str) -> None:
        """Counts one case.

        Args:
            what: The description, in the plural.
            where: The place.
        """
        self._counts[what] = self._counts.get(what, 0) + 1
        places = self._places.setdefault(what, [])
        if len(places) < _PLACES:
            places.append(where)

    def say(self, sentence: str) -> None:
        """Adds a sentence that has its count already.

        Args:
            sentence: The sentence.
        """
        self._said.append(sentence)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the sentences."""
        yield from self._said
        for what, count in self._counts.items():
            more = "; ..." if count > len(self._places[what]) else ""
            yield f"{what}: {count:,} ({'; '.join(self._places[what])}{more})"


@dataclass(frozen=True)
class ObjectData:
    """A data set whose images have objects: boxes, with or without masks.

    Attributes:
        format: The name of the format, for messages.
        root: The directory that the ``file_name`` of each image is relative to.
        splits: Reads the content of a split, by ``'train'``, ``'val'`` and ``'test'``. A split may be missing. All
            splits have the same categories, except those of COCO files.
        sources: The files that the content depends on.
        files: The annotation files that MMDetection can read as they are, by split. Empty if there are none.
        notes: What the user needs to know, such as which files were passed over. Reading a split adds notes.
    """

    format: str
    root: Path
    splits: Mapping[str, Callable[[], Content]]
    sources: Sequence[Path] = ()
    files: Mapping[str, Split] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)


class ContentBuilder:
    """Collects the images and objects of a split, and the faults of its files.

    Args:
        root: The directory that image names are relative to.
        classes: The names of the categories.
    """

    def __init__(self, root: Path, classes: Sequence[str]) -> None:
        self.root = root
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        self._faults = Notes()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the last image."""
        return self._images[-1]["width"], self._images[-1]["height"]

    def add_image(self, name: str, size: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """Adds an image. The objects that are added next belong to this image.

        Args:
            name: The path of the image, relative to the root.
            size: Width and height. None reads them from the image.

        Returns:
            Width and height. None if the image is not readable, which is a fault.
        """
        if size is None:
            size = self._read_size(name)
        if size is None:
            return None
        self._images.append({"id": len(self._images) + 1, "file_name": name, "width": size[0], "height": size[1]})
        return size

    def add_box(self, label: int, box: Sequence[float], *, crowd: bool = False) -> None:
        """Adds an object without a mask.

        Args:
            label: The number of the object's class, from 0.
            box: x, y, width and height, in pixels.
            crowd: Whether training and evaluation ignore the object.
        """
        self._add(label, box, box[2] * box[3], [], crowd)

    def add_polygons(self, label: int, polygons: Iterable[Sequence[float]]) -> None:
        """Adds an object with a mask.

        Args:
            label: The number of the object's class, from 0.
            polygons: The outlines of the object's parts: x, y, x, y and so on, in pixels.
        """
        parts = [[round(float(value), 3) for value in polygon] for polygon in polygons]
        xs = [value for part in parts for value in part[::2]]
        ys = [value for part in parts for value in part[1::2]]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        self._add(label, box, self._area(parts), parts, False)

    def add_runs(self, label: int, counts: list[int]) -> None:
        """Adds an object with a run-length code.

        Args:
            label: The number of the object's class, from 0.
            counts: The lengths of the runs, column by column, beginning with pixels outside the object.
        """
        from pycocotools import mask

        size = list(reversed(self.size))
        code = mask.frPyObjects({"counts": counts, "size": size}, *size)
        segmentation = {"counts": code["counts"].decode(), "size": size}
        self._add(label, mask.toBbox(code).tolist(), float(mask.area(code)), segmentation, False)

    def fault(self, what: str, where: str) -> None:
        """Counts a fault of the files.

        Args:
            what: The description, in the plural.
            where: The place.
        """
        self._faults.add(what, where)

    def build(self, what: str) -> Content:
        """Returns the content.

        Args:
            what: What was read, for the message about faults.

        Raises:
            UserError: The files have faults.
        """
        faults = list(self._faults)
        if faults:
            raise UserError(f"{what} has faults: {'. '.join(faults)}. Fix them, or remove these annotations.")
        return {"images": self._images, "annotations": self._annotations, "categories": list(self._categories)}

    def _add(self, label: int, box: Sequence[float], area: float, segmentation: Any, crowd: bool) -> None:
        self._annotations.append(
            {
                "id": len(self._annotations) + 1,
                "image_id": len(self._images),
                "category_id": label + 1,
                "bbox": [round(float(value), 3) for value in box],
                "area": round(float(area), 3),
                "segmentation": segmentation,
                "iscrowd": int(crowd),
            }
        )

    def _area(self, polygons: list[list[float]]) -> float:
        """The area in pixels, as pycocotools counts it."""
        from pycocotools import mask

        usable = [polygon for polygon in polygons if len(polygon) >= 6]
        if not usable:
            return 0.0
        width, height = self.size
        return float(mask.area(mask.merge(mask.frPyObjects(usable, height, width))))

    def _read_size(self, name: str) -> tuple[int, int] | None:
        try:
            return read_size(self.root / name)
        except (ImageError, MissingLibraryError) as error:
            self.fault("unreadable images", f"{name}: {error}")
            return None


class SplitReader(ABC):
    """Reads the splits of a data set. The splits are read together and once, because they share classes.

    Args:
        root: The data directory.
        notes: Receives what the reader passes over.
    """

    def __init__(self, root: Path, notes: Notes) -> None:
        self.root = root
        self.notes = notes
        self._contents = cache(self._read)

    def readers(self, splits: Iterable[str]) -> dict[str, Callable[[], Content]]:
        """Returns a function for each split, as :attr:`ObjectData.splits` needs it.

        Args:
            splits: The names of the splits.
        """
        return {split: partial(self.read, split) for split in splits}

    def read(self, split: str) -> Content:
        """Reads a split.

        Args:
            split: The name of the split.

        Raises:
            UserError: A file has a fault.
        """
        return self._contents()[split]

    @abstractmethod
    def _read(self) -> dict[str, Content]:
        """Reads all splits."""


def check_named(file: Path, names: Sequence[str], used: Iterable[str], kind: str) -> None:
    """Checks that a file of class names has the name of each object.

    Args:
        file: The file of class names.
        names: The names in the file.
        used: The names of the objects.
        kind: The kind of the annotation files, for the message.

    Raises:
        UserError: The file lacks a name.
    """
    unknown = sorted(set(used) - set(names))
    if unknown:
        raise UserError(
            f"{file} does not name {', '.join(unknown)}, which the {kind} files contain; add a line for each name, or "
            f"remove {file.name}."
        )


def outline_of_circle(x: float, y: float, radius: float) -> list[float]:
    """Returns a polygon that differs from a circle by less than half a pixel.

    Args:
        x: The centre.
        y: The centre.
        radius: The radius, in pixels.

    Returns:
        The polygon: x, y, x, y and so on.
    """
    corners = 12 if radius <= 1 else max(12, math.ceil(math.pi / math.acos(1 - 0.5 / radius)))
    angles = np.arange(corners) * 2 * np.pi / corners
    points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    return [float(value) for value in points.ravel()]


def select_classes(content: Content, names: Sequence[str]) -> Content:
    """Gives a content the categories with these names, in this order.

    Args:
        content: The content.
        names: The names. A name without a category becomes a category without objects.

    Returns:
        The content without the objects of other categories. The category ids begin with 1.

    Example:
        >>> content = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "a"}, {"id": 7, "name": "b"}]}
        >>> select_classes(content, ["b", "c"])["categories"]
        [{'id': 1, 'name': 'b'}, {'id': 2, 'name': 'c'}]
    """
    old = {category["name"]: category["id"] for category in content["categories"]}
    new = {old[name]: number for number, name in enumerate(names, start=1) if name in old}
    annotations = []
    for annotation in content["annotations"]:
        if annotation["category_id"] in new:
            annotations.append({**annotation, "category_id": new[annotation["category_id"]]})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {**content, "annotations": annotations, "categories": categories}


def select_images(content: Content, images: list[Any]) -> Content:
    """Keeps some images of a content, with their objects.

    Args:
        content: The content.
        images: Entries of the content's images.

    Returns:
        The content with all categories.
    """
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    return {**content, "images": images, "annotations": annotations}


def without_masks(content: Content) -> Content:
    """Removes the masks of all objects.

    Args:
        content: The content.

    Returns:
        The content with boxes only. The areas become those of the boxes.
    """
    annotations = []
    for annotation in content["annotations"]:
        area = annotation["bbox"][2] * annotation["bbox"][3]
        annotations.append({**annotation, "segmentation": [], "area": round(area, 3)})
    return {**content, "annotations": annotations}
