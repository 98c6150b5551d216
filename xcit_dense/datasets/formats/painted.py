"""Reads objects with masks as label maps: each pixel gets the class of the object that covers it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.datasets.formats.objects import Content, ObjectData
from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.structures import IGNORED

BACKGROUND = "background"
"""The name of the class 0, unless a category has this name."""


def paint(data: ObjectData, given: Sequence[str] | None = None) -> LabelData:
    """Reads objects as label maps. The background has the value 0. Smaller objects cover larger objects.

    Args:
        data: The data set with objects. Its polygons and run-length codes are masks.
        given: The names of the categories in use. Objects of other categories become background. None uses all.

    Returns:
        The data set, with ``read_label``. Objects that have a box and no mask are ignored: their pixels have the value
        255 where no mask covers them.

    Raises:
        UserError: No object has a mask, or a given category does not exist.
    """
    contents = {split: read() for split, read in data.splits.items()}
    categories = next(iter(contents.values()))["categories"]
    present = [str(category["name"]) for category in categories]
    unknown = [name for name in given or () if name not in (BACKGROUND, *present)]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the categories are "
            f"{', '.join(present)}; write some of these names."
        )
    used = [name for name in present if given is None or name in given]
    classes = (BACKGROUND, *(name for name in used if name.lower() != BACKGROUND))
    value_of = {
        category["id"]: classes.index(name) if name in classes else 0 for category, name in zip(categories, present)
    }
    images: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    splits = {}
    masks = boxes = 0
    for split, content in contents.items():
        objects = _objects_by_image(content)
        splits[split] = [Pair(image["file_name"], image["file_name"]) for image in content["images"]]
        for image in content["images"]:
            images[image["file_name"]] = (image, objects.get(image["id"], []))
        masks += sum(_has_mask(annotation) for annotation in content["annotations"])
        boxes += sum(not _has_mask(annotation) for annotation in content["annotations"])
    if boxes and not masks:
        raise UserError(
            f"The objects of this data ({data.format}) have boxes and no masks, which segmentation needs; train a "
            "detector with a config such as mask_rcnn_xcit_s12, or export polygons."
        )
    notes = [
        *data.notes,
        f"Objects are read as label maps: 0 is {BACKGROUND!r}, and smaller objects are on top.",
    ]
    if boxes:
        notes.append(f"{boxes:,} of {masks + boxes:,} objects have a box and no mask: their pixels are ignored.")
    return LabelData(
        data.format, data.root, splits, classes, read_label=partial(_paint, images, value_of), notes=tuple(notes)
    )


def _objects_by_image(content: Content) -> dict[Any, list[dict[str, Any]]]:
    found: dict[Any, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def _has_mask(annotation: dict[str, Any]) -> bool:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        return any(len(polygon) >= 6 for polygon in segmentation)
    return bool(segmentation)


def _paint(
    images: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]], value_of: dict[Any, int], pair: Pair
) -> npt.NDArray[np.uint8]:
    image, annotations = images[pair.label]
    label = np.zeros((image["height"], image["width"]), np.uint8)
    for annotation in annotations:
        if not _has_mask(annotation):
            left, top, width, height = annotation["bbox"]
            label[int(max(0, top)) : int(np.ceil(top + height)), int(max(0, left)) : int(np.ceil(left + width))] = (
                IGNORED
            )
    masks = [
        (read_mask(each["segmentation"], image), value_of[each["category_id"]])
        for each in annotations
        if _has_mask(each)
    ]
    for mask, value in sorted(masks, key=lambda item: -int(item[0].sum())):
        label[mask] = value
    return label


def read_mask(segmentation: Any, image: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """Reads a mask in COCO's format.

    Args:
        segmentation: A list of polygons, or a run-length code.
        image: The entry of the image, with ``height`` and ``width``.

    Returns:
        (H, W).
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingLibraryError("Polygons are read with pycocotools; write pip install pycocotools.") from error
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        code = coco.merge(coco.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        code = coco.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return coco.decode(code).astype(bool)
