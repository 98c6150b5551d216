"""Reads objects with masks as label maps: each pixel gets the class of the object that covers it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.datasets.formats.objects import ObjectData
from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.structures import IGNORED

BACKGROUND = "background"
"""The name of the class 0. A category with this name is the same class."""


def paint(data: ObjectData) -> LabelData:
    """Reads objects as label maps. The background has the value 0. Smaller objects cover larger objects.

    Args:
        data: The data set with objects. Its polygons and run-length codes are masks.

    Returns:
        The data set, with ``read_label``. Objects that have a box and no mask are ignored: their pixels have the value
        255 where no mask covers them.

    Raises:
        UserError: No object has a mask, or a split has other categories than the training split.
    """
    contents = {split: read() for split, read in data.splits.items()}
    first = contents["train"] if "train" in contents else next(iter(contents.values()))
    names = [str(category["name"]) for category in first["categories"]]
    classes = (BACKGROUND, *(name for name in names if name.lower() != BACKGROUND))
    images: dict[str, _Objects] = {}
    splits = {}
    annotations = []
    for split, content in contents.items():
        values = {each["id"]: _value_of(str(each["name"]), classes, split) for each in content["categories"]}
        objects: dict[Any, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
        for image in content["images"]:
            images[image["file_name"]] = _Objects(image["width"], image["height"], objects.get(image["id"], []), values)
        splits[split] = [Pair(image["file_name"], image["file_name"]) for image in content["images"]]
        annotations += content["annotations"]
    boxes = sum(not _has_mask(annotation) for annotation in annotations)
    if boxes == len(annotations):
        raise UserError(
            f"The objects in {data.root} ({data.format}) have boxes and no masks, so they do not give a class to each "
            "pixel; train with a config for detection, such as mask_rcnn_xcit_s12_1x, or export polygons."
        )
    notes = [*data.notes, f"Objects are read as label maps: 0 is {BACKGROUND!r}, and smaller objects are on top."]
    if boxes:
        notes.append(f"{boxes:,} of {len(annotations):,} objects have a box and no mask: their pixels are ignored.")
    return LabelData(
        data.format,
        data.root,
        splits,
        classes,
        read_label=lambda pair: _paint(images[pair.label]),
        sources=data.sources,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Objects:
    """The objects of an image.

    Attributes:
        width: The width of the image.
        height: The height of the image.
        annotations: The objects, in COCO's format.
        values: The value of each category in label maps.
    """

    width: int
    height: int
    annotations: list[dict[str, Any]]
    values: dict[Any, int]


def _value_of(name: str, classes: Sequence[str], split: str) -> int:
    if name.lower() == BACKGROUND:
        return 0
    if name not in classes:
        raise UserError(
            f"The category {name!r} of the split {split!r} is not a category of the training split "
            f"({', '.join(classes[1:])}); give all splits the same categories."
        )
    return classes.index(name)


def _has_mask(annotation: dict[str, Any]) -> bool:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        return any(len(polygon) >= 6 for polygon in segmentation)
    return bool(segmentation)


def _paint(objects: _Objects) -> npt.NDArray[np.uint8]:
    label = np.zeros((objects.height, objects.width), np.uint8)
    masks = []
    for annotation in objects.annotations:
        if _has_mask(annotation):
            mask = read_mask(annotation["segmentation"], objects.height, objects.width)
            masks.append((mask, objects.values[annotation["category_id"]]))
        else:
            left, top, width, height = annotation["bbox"]
            rows = slice(max(0, int(top)), math.ceil(top + height))
            columns = slice(max(0, int(left)), math.ceil(left + width))
            label[rows, columns] = IGNORED
    for mask, value in sorted(masks, key=lambda item: -int(item[0].sum())):
        label[mask] = value
    return label


def read_mask(segmentation: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Reads a mask in COCO's format.

    Args:
        segmentation: A list of polygons, or a run-length code.
        height: The height of the image.
        width: The width of the image.

    Returns:
        (H, W).
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingLibraryError("Polygons are read with pycocotools; write pip install pycocotools.") from error
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        code = coco.merge(coco.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return coco.decode(code).astype(bool)
