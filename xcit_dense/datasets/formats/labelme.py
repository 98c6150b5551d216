"""Data sets in LabelMe's format: a JSON file with shapes for each image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xcit_dense.datasets.formats.coco import read_json
from xcit_dense.datasets.formats.files import FileIndex, is_image, split_of
from xcit_dense.datasets.formats.objects import (
    Content,
    ContentBuilder,
    Notes,
    ObjectData,
    SplitReader,
    check_named,
    outline_of_circle,
)
from xcit_dense.errors import UserError
from xcit_dense.media.images import UNREADABLE
from xcit_dense.utils.files import visible_files
from xcit_dense.utils.progress import tracked

_TRIED = 5  # JSON files
_NAMES = "labels.txt"  # LabelMe reads the names of the labels from this file
_NOT_CLASSES = ("__ignore__", "_background_")  # the first lines of labels.txt, by LabelMe's convention
_OUTLINES = ("polygon", "rotation")
_BOXES = ("rectangle",)


def find(root: Path) -> ObjectData | None:
    """Finds a data set in LabelMe's format.

    The names of directories give the splits. The shapes of an image with the same label and ``group_id`` are parts of
    one object. The reader ignores ``imageData``.

    Args:
        root: The data directory.

    Returns:
        The data set. None if the directory has another format.

    Raises:
        UserError: The directory has this format, but a fault.

    Example:
        >>> import json
        >>> from PIL import Image
        >>> shape = {"label": "cat", "shape_type": "rectangle", "points": [[2, 3], [12, 23]]}
        >>> Path("labelme").mkdir()
        >>> _ = Path("labelme/a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
        >>> Image.new("RGB", (30, 30)).save("labelme/a.png")
        >>> find(Path("labelme")).splits["train"]()["annotations"][0]["bbox"]
        [2.0, 3.0, 10.0, 20.0]
    """
    files = list(visible_files(root))
    annotations = [path for path in files if path.suffix.lower() == ".json"]
    if not any(map(_is_labelme, annotations[:_TRIED])):
        return None
    images = [path for path in files if is_image(path)]
    splits: dict[str, list[Path]] = {}
    for path in annotations:
        directory = f"{path.relative_to(root).parent.as_posix()}/image"
        splits.setdefault(split_of(directory) or "train", []).append(path)
    notes = Notes()
    annotated = {path.with_suffix("") for path in annotations}
    for image in images:
        if image.with_suffix("") not in annotated:
            notes.add("images without a JSON file, which are passed over", image.relative_to(root).as_posix())
    names = root / _NAMES
    reader = _Reader(root, splits, FileIndex(root, images), names if names.is_file() else None, notes)
    sources = [*annotations, *images, *([names] if names.is_file() else [])]
    return ObjectData("LabelMe", root, reader.readers(splits), sources, notes=notes)


def _is_labelme(path: Path) -> bool:
    try:
        content = read_json(path)
    except UserError:  # a damaged file shows no format
        return False
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


class _Reader(SplitReader):
    """Reads the splits of a data set. All files are read once, because they decide the classes."""

    def __init__(
        self, root: Path, splits: Mapping[str, Sequence[Path]], images: FileIndex, names: Path | None, notes: Notes
    ) -> None:
        super().__init__(root, notes)
        self.splits = splits
        self.images = images
        self.names = names

    def _read(self) -> dict[str, Content]:
        read: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for split, paths in self.splits.items():
            read[split] = []
            for path in tracked(f"JSON files of {split} read", paths):
                content = read_json(path)
                if not (isinstance(content, dict) and isinstance(content.get("shapes"), list)):
                    self.notes.add("JSON files without shapes, which are passed over", self._where(path))
                    continue
                content.pop("imageData", None)
                read[split].append((self._where(path), content))
        shapes = [shape for files in read.values() for _, content in files for shape in content["shapes"]]
        used = {str(shape.get("label")) for shape in shapes if shape.get("shape_type") in _KINDS}
        classes = sorted(used)
        if self.names is not None:
            lines = [line.strip() for line in self.names.read_text("utf-8-sig").splitlines()]
            classes = [line for line in lines if line and line not in _NOT_CLASSES]
            check_named(self.names, classes, used, "JSON")
        # A box without a mask cannot train a mask head. The outline of a rectangle is its mask.
        masks = any(shape.get("shape_type") in _KINDS and shape["shape_type"] not in _BOXES for shape in shapes)
        return {split: self._build(files, classes, masks) for split, files in read.items()}

    def _where(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _build(self, files: Sequence[tuple[str, dict[str, Any]]], classes: Sequence[str], masks: bool) -> Content:
        builder = ContentBuilder(self.root, classes)
        numbers = {name: number for number, name in enumerate(classes)}
        for where, content in files:
            near = Path(where).parent.as_posix()
            image = self.images.find(str(content.get("imagePath") or ""), near)
            image = image or self.images.find(Path(where).stem, near)
            if image is None:
                builder.fault("JSON files without their image", where)
                continue
            width, height = content.get("imageWidth"), content.get("imageHeight")
            known = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
            if builder.add_image(image, (width, height) if known else None) is None:  # type: ignore[arg-type]
                continue
            for label, shapes in self._objects(content["shapes"], where):
                self._add(builder, numbers[label], shapes, masks, where)
        return builder.build(f"{self.root} in LabelMe's format")

    def _objects(self, shapes: Sequence[Any], where: str) -> list[tuple[str, list[dict[str, Any]]]]:
        """The shapes of each object, with the object's label."""
        objects: list[tuple[str, list[dict[str, Any]]]] = []
        groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
        for shape in shapes:
            kind = shape.get("shape_type")
            if kind not in _KINDS:
                self.notes.add(f"shapes of the type {kind}, which are passed over", where)
                continue
            label, group = str(shape.get("label")), shape.get("group_id")
            if group is not None and (label, group) in groups:
                groups[label, group].append(shape)
                continue
            parts = [shape]
            objects.append((label, parts))
            if group is not None:
                groups[label, group] = parts
        return objects

    def _add(
        self, builder: ContentBuilder, label: int, shapes: Sequence[dict[str, Any]], masks: bool, where: str
    ) -> None:
        outlines = []
        for shape in shapes:
            if shape["shape_type"] == "mask":
                counts = _runs_of_mask(shape, builder.size)
                if counts is None or len(shapes) > 1:
                    builder.fault("masks that are not readable, or are grouped with other shapes", where)
                    return
                builder.add_runs(label, counts)
                return
            outline = _outline(shape)
            if outline is None:
                builder.fault(f"shapes of the type {shape['shape_type']} with other points than the type has", where)
                return
            outlines.append(outline)
        if masks:
            builder.add_polygons(label, outlines)
            return
        xs = [value for outline in outlines for value in outline[::2]]
        ys = [value for outline in outlines for value in outline[1::2]]
        builder.add_box(label, [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)])


_KINDS = (*_OUTLINES, *_BOXES, "circle", "mask")


def _outline(shape: Mapping[str, Any]) -> list[float] | None:
    """The outline of a shape: x, y, x, y and so on. None if the points do not fit the type."""
    try:
        points = np.asarray(shape.get("points"), float).reshape(-1, 2)
    except (TypeError, ValueError):
        return None
    if not np.isfinite(points).all():
        return None
    kind = shape["shape_type"]
    if kind in _OUTLINES and len(points) >= 3:
        return [float(value) for value in points.ravel()]
    if kind == "rectangle" and len(points) in (2, 4):
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        return [float(value) for value in (x0, y0, x1, y0, x1, y1, x0, y1)]
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points[0], points[1]
        return outline_of_circle(float(x), float(y), math.dist((x, y), edge))
    return None


def _runs_of_mask(shape: Mapping[str, Any], size: tuple[int, int]) -> list[int] | None:
    """The run-length code of a mask that is stored as an image of its box. None if the mask is not readable."""
    try:
        x0, y0 = np.asarray(shape.get("points"), float)[0].round().astype(int)
        with Image.open(io.BytesIO(base64.b64decode(str(shape.get("mask"))))) as image:
            part = np.asarray(image) > 0
    except (*UNREADABLE, TypeError, IndexError):
        return None
    width, height = size
    if part.ndim != 2 or min(x0, y0) < 0 or x0 + part.shape[1] > width or y0 + part.shape[0] > height:
        return None
    pixels = np.zeros((height, width), bool)
    pixels[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    changes = np.flatnonzero(np.diff(pixels.ravel(order="F"), prepend=False))
    return [int(run) for run in np.diff(changes, prepend=0, append=pixels.size)]
