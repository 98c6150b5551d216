"""Repairs faults of COCO content that have one possible meaning. Other faults stay, and the check reports them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from xcit_dense.datasets.formats.coco import choose_categories, rename_categories
from xcit_dense.datasets.formats.objects import Content

Locate = Callable[[str], "str | None"]
"""Returns the file name of an image that exists, for the name in the annotation file. None if there is no image."""


def repair(
    content: Mapping[str, Any],
    locate: Locate | None = None,
    *,
    classes: Collection[str] = (),
    masks: bool = False,
    crowd_as_objects: bool = False,
) -> tuple[Content, list[str]]:
    r"""Repairs COCO content, so that MMDetection and pycocotools read what the user means.

    The result has annotation ids from 1, integer ids of images and categories, category ids that rise in the file's
    order, ``iscrowd``, ``area`` and ``bbox`` for each object, polygons of three points or more, and separators ``/`` in
    file names. Values that are right do not change.

    Args:
        content: The content of a COCO file, which is not changed.
        locate: Finds the images. None keeps the file names, except for backslashes.
        classes: The names of the classes in use. A category of these names is kept in any case.
        masks: Whether the run needs masks. If so, an object whose polygons all have fewer than three points becomes a
            region that training and evaluation ignore.
        crowd_as_objects: Whether objects with ``iscrowd=1`` become ordinary objects.

    Returns:
        The repaired content, and a sentence with a number for each kind of repair. No sentence means that the content
        did not need a repair.

    Example:
        >>> content = {
        ...     "images": [{"id": 0, "file_name": "train\\a.jpg", "width": 40, "height": 30}],
        ...     "annotations": [{"id": 0, "image_id": 0, "category_id": "a", "bbox": [2, 3, 20, 10]}],
        ...     "categories": [{"id": "a", "name": "cat"}],
        ... }
        >>> repaired, notes = repair(content)
        >>> repaired["annotations"]
        [{'id': 1, 'image_id': 0, 'category_id': 1, 'bbox': [2, 3, 20, 10], 'iscrowd': 0, 'area': 200}]
        >>> repaired["images"][0]["file_name"]
        'train/a.jpg'
        >>> print(*notes, sep="\n")
        backslashes in file names read as separators: 1
        category ids replaced by 1, 2, 3, ... in the file's order: 1
        annotation ids replaced by 1, 2, 3, ..., because an evaluation does not count an object with id 0: 1
        iscrowd set to 0 where it was missing: 1
        areas computed where they were missing or not positive: 1
    """
    notes: Counter[str] = Counter()
    annotations = _list(content, "annotations")
    if not isinstance(content.get("annotations"), list):
        notes["lists of annotations added, because the file has none"] += 1
    images, image_ids = _repair_images(_list(content, "images"), locate, notes)
    categories, category_ids = _repair_categories(_list(content, "categories"), annotations, classes, notes)
    sizes = {
        image["id"]: (image.get("height"), image.get("width"))
        for image in images
        if isinstance(image, dict) and isinstance(image.get("id"), int)
    }
    has_new_ids = not _are_ids(annotations)
    if has_new_ids:
        reason = _reason_of_new_ids(annotations)
        notes[f"annotation ids replaced by 1, 2, 3, ..., because {reason}"] += len(annotations)
    known_images, known_categories = _unchanged(image_ids), _unchanged(category_ids)
    are_right = not (has_new_ids or crowd_as_objects)
    repaired = []
    for number, annotation in enumerate(annotations, start=1):
        if not isinstance(annotation, dict) or (are_right and _is_right(annotation, known_images, known_categories)):
            repaired.append(annotation)
            continue
        changes: dict[str, Any] = {"id": number} if has_new_ids else {}
        _repair_reference(annotation, "image_id", image_ids, changes, notes)
        _repair_reference(annotation, "category_id", category_ids, changes, notes)
        _repair_crowd(annotation, changes, notes, crowd_as_objects)
        size = sizes.get(_hashable(changes.get("image_id", annotation.get("image_id"))))
        _repair_mask(annotation, changes, notes, masks)
        _repair_box(annotation, changes, notes, size)
        _repair_area(annotation, changes, notes, size)
        repaired.append({**annotation, **changes} if changes else annotation)
    lists = {"images": images, "categories": categories}
    result = {**content, **{name: entries for name, entries in lists.items() if name in content}}
    return {**result, "annotations": repaired}, [f"{what}: {count:,}" for what, count in notes.items()]


def _list(content: Mapping[str, Any], name: str) -> list[Any]:
    value = content.get(name)
    return value if isinstance(value, list) else []


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | str | float) else None


def _text(value: Any) -> str:
    """An id as text: 1, 1.0 and "1" mean the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _repair_images(
    images: list[Any], locate: Locate | None, notes: Counter[str]
) -> tuple[list[Any], dict[Any, Any] | None]:
    """Repairs names and ids. The second value translates ids, also if an id is written as a number or as text."""
    new_ids = _new_ids(images, are_sorted=False)
    if new_ids:
        notes["image ids replaced by 1, 2, 3, ..., because they are not whole numbers"] += len(images)
    repaired = []
    for image in images:
        if not isinstance(image, dict):
            repaired.append(image)
            continue
        changes: dict[str, Any] = {"id": new_ids[image["id"]]} if new_ids else {}
        name = image.get("file_name")
        if isinstance(name, str):
            plain = name.replace("\\", "/")
            found = locate(name) if locate else plain
            if found is not None and found != name:
                changes["file_name"] = found
                if found == plain:
                    notes["backslashes in file names read as separators"] += 1
                else:
                    notes["images found in another directory by their names"] += 1
        repaired.append({**image, **changes} if changes else image)
    return repaired, _references(images, new_ids)


def _repair_categories(
    categories: list[Any], annotations: list[Any], classes: Collection[str], notes: Counter[str]
) -> tuple[list[Any], dict[Any, Any] | None]:
    """Repairs names and ids, and leaves out unused categories. The second value translates ids."""
    named = rename_categories(categories)
    changed = sum(new is not old for new, old in zip(named, categories))
    if changed:
        notes["category names that are numbers read as text"] += changed
    chosen = choose_categories(named, lambda: (_get(annotation, "category_id") for annotation in annotations), classes)
    left_out = [str(category["name"]) for category in named if not any(category is kept for kept in chosen)]
    if left_out:
        notes[f"categories without objects left out ({', '.join(left_out)})"] += len(left_out)
    new_ids = _new_ids(chosen, are_sorted=True)
    if new_ids:
        notes["category ids replaced by 1, 2, 3, ... in the file's order"] += len(chosen)
    references = _references(chosen, new_ids)
    return [{**category, "id": new_ids[category["id"]]} for category in chosen] if new_ids else chosen, references


def _new_ids(entries: list[Any], are_sorted: bool) -> dict[Any, int]:
    """Ids from 1 by the old ids. Empty if the old ids are right, or are not one for each entry."""
    old = [_get(entry, "id") for entry in entries]
    if not all(isinstance(value, int | str | float) for value in old) or len(set(old)) < len(old):
        return {}
    # MMDetection takes the categories in the file's order, and pycocotools sorts them by id. If both orders differ,
    # MMDetection prints the average precision of one class with the name of another.
    if all(type(value) is int for value in old) and (not are_sorted or (old == sorted(old) and old[:1] >= [0])):
        return {}
    return {value: number for number, value in enumerate(old, start=1)}


def _references(entries: list[Any], new_ids: dict[Any, int]) -> dict[Any, Any] | None:
    """The final id by each way to write an id. None if an id has two meanings."""
    old = [_get(entry, "id") for entry in entries]
    by_text = {_text(value): new_ids.get(value, value) for value in old if value is not None}
    return by_text if len(by_text) == len(entries) else None


def _get(entry: Any, key: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    return _hashable(value)


def _repair_reference(
    annotation: dict[str, Any],
    key: str,
    references: dict[Any, Any] | None,
    changes: dict[str, Any],
    notes: Counter[str],
) -> None:
    """Translates the id of an image or a category in an annotation."""
    value = _get(annotation, key)
    if references is None or value is None:
        return
    meant = references.get(_text(value), value)
    if meant != value:
        changes[key] = meant
        if str(meant) == _text(value):
            notes[f"{key} written as another type than the id"] += 1


def _are_ids(annotations: list[Any]) -> bool:
    ids = [annotation.get("id") for annotation in annotations if isinstance(annotation, dict)]
    return all(type(value) is int and value > 0 for value in ids) and len(set(ids)) == len(ids)


def _reason_of_new_ids(annotations: list[Any]) -> str:
    ids = [_get(annotation, "id") for annotation in annotations]
    if not all(type(value) is int for value in ids):
        return "an id is missing or is not a whole number"
    if len(set(ids)) < len(ids):
        return "an id is given twice"
    return "an evaluation does not count an object with id 0"


def _unchanged(references: dict[Any, Any] | None) -> set[Any]:
    """The ids that stay as they are."""
    return {meant for text, meant in (references or {}).items() if str(meant) == text}


def _is_right(annotation: dict[str, Any], images: Collection[int], categories: Collection[int]) -> bool:
    """Whether an annotation surely needs no repair. This question is quick, and most files need no repair."""
    try:
        mask, area = annotation["segmentation"], annotation["area"]
        return (
            type(annotation["iscrowd"]) is int
            and annotation["image_id"] in images
            and annotation["category_id"] in categories
            and len(annotation["bbox"]) == 4
            and 0 < area < math.inf
            and (type(mask) is dict or all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask))
        )
    except (KeyError, TypeError):
        return False


def _repair_crowd(
    annotation: dict[str, Any], changes: dict[str, Any], notes: Counter[str], crowd_as_objects: bool
) -> None:
    value = annotation.get("iscrowd")
    if value is None:
        changes["iscrowd"] = 0
        notes["iscrowd set to 0 where it was missing"] += 1
    elif type(value) is not int and value in (0, 1, "0", "1"):  # true, 1.0 or text
        changes["iscrowd"] = int(value)
        notes["iscrowd read as a whole number"] += 1
    if crowd_as_objects and changes.get("iscrowd", value) == 1:
        changes["iscrowd"] = 0
        notes["objects with iscrowd=1 used as ordinary objects (--crowd-as-objects)"] += 1


def _repair_mask(annotation: dict[str, Any], changes: dict[str, Any], notes: Counter[str], masks: bool) -> None:
    mask = annotation.get("segmentation")
    if not isinstance(mask, list) or not mask:
        return
    if all(isinstance(value, int | float) for value in mask):
        if len(mask) >= 6 and len(mask) % 2 == 0:
            changes["segmentation"] = [mask]
            notes["polygons put into a list of polygons"] += 1
        return
    if not all(isinstance(polygon, list) for polygon in mask):
        return
    valid = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
    if len(valid) == len(mask):
        return
    if valid:
        changes["segmentation"] = valid
        notes["polygons of fewer than three points, or of an odd number of values, removed from an object"] += len(
            mask
        ) - len(valid)
    elif not any(mask):
        changes["segmentation"] = []
        notes["empty polygons removed"] += 1
    elif masks and (box := _box(annotation.get("bbox"))):
        x, y, width, height = box
        # Without a mask, an object is neither right nor wrong: training and evaluation ignore its box.
        changes["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        changes["iscrowd"] = 1
        notes["objects ignored, because their polygons have fewer than three points"] += 1


def _repair_box(annotation: dict[str, Any], changes: dict[str, Any], notes: Counter[str], size: Any) -> None:
    if annotation.get("bbox"):
        return
    code = _encode(changes.get("segmentation", annotation.get("segmentation")), size)
    if code is not None:
        from pycocotools import mask as coco_mask

        changes["bbox"] = [float(value) for value in coco_mask.toBbox(code)]
        notes["boxes computed from masks where they were missing"] += 1


def _repair_area(annotation: dict[str, Any], changes: dict[str, Any], notes: Counter[str], size: Any) -> None:
    area = annotation.get("area")
    box = _box(changes.get("bbox", annotation.get("bbox")))
    if box is None:
        return
    # An object of area 0 is not used. Of a box without a pixel, the check reports this.
    if isinstance(area, int | float) and math.isfinite(area) and (area > 0 or min(box[2:]) < 1):
        return
    code = _encode(changes.get("segmentation", annotation.get("segmentation")), size)
    if code is None:
        changes["area"] = box[2] * box[3]
    else:
        from pycocotools import mask as coco_mask

        changes["area"] = float(coco_mask.area(code))
    notes["areas computed where they were missing or not positive"] += 1


def _box(value: Any) -> list[float] | None:
    """A box of four finite numbers. None if the value is something else."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    return value if all(isinstance(side, int | float) and math.isfinite(side) for side in value) else None


def _encode(mask: Any, size: Any) -> Any:
    """The run-length code of a mask. None if there is no valid mask."""
    if not mask or size is None or not all(type(side) is int and side > 0 for side in size):
        return None
    from pycocotools import mask as coco_mask

    try:
        if isinstance(mask, list):
            return coco_mask.merge(coco_mask.frPyObjects(mask, *size))
        if isinstance(mask.get("counts"), list):
            return coco_mask.frPyObjects(mask, *size)
        return mask if mask.get("counts") and list(mask.get("size") or ()) == list(size) else None
    except Exception:  # pycocotools raises Exception itself for a mask of another form; the check reports the mask
        return None
