"""Detections in COCO's format, written image by image, by one process or by several.

Each process appends one JSON line for each image to a file of its own, a part. At the end, the parts are joined.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.structures import Instances
from xcit_dense.utils.files import atomic_write

try:
    from pycocotools import mask as coco_mask
except ImportError as error:
    raise MissingLibraryError("COCO's format needs pycocotools; write pip install pycocotools.") from error

_COCO_CLASSES = 80

Record = dict[str, Any]
"""One line of a part: the ``image`` and its ``results``, or the name of a ``failed`` input and ``why`` it failed."""


def make_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Makes COCO's categories for class names.

    Args:
        classes: The names, in the order of their indices.

    Returns:
        One ``{"id": ..., "name": ...}`` for each class. COCO's own 80 classes get COCO's own ids. Other classes are
        numbered from 1.

    Example:
        >>> make_categories(["cat", "dog"])
        [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}]
    """
    numbers = _numbers_of_coco() if len(classes) == _COCO_CLASSES else {}
    if list(numbers) != list(classes):
        numbers = {name: 1 + index for index, name in enumerate(classes)}
    return [{"id": numbers[name], "name": name} for name in classes]


def _numbers_of_coco() -> dict[str, int]:
    """The ids of COCO's own classes by name."""
    # The import is slow, so only models that may have these classes pay for it.
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    numbered = enumerate(MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])
    return {name: number for number, name in numbered if name not in ("__background__", "N/A")}


def make_results(instances: Instances, categories: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Converts the objects of one image to COCO's result format, without the image id.

    Args:
        instances: The objects of one image, with scores.
        categories: The categories, from :func:`make_categories`.

    Returns:
        One dictionary for each object: ``category_id``, ``bbox`` (x, y, width, height in pixels), ``score`` in [0, 1],
        and ``segmentation`` (a run-length code) if the objects have masks.

    Raises:
        UserError: A score or a box is infinite or NaN. JSON cannot represent these numbers.

    Example:
        >>> boxes = np.array([[10, 20, 30, 60]], np.float32)
        >>> found = Instances(boxes, labels=np.array([1]), scores=np.array([0.75]))
        >>> make_results(found, make_categories(["cat", "dog"]))
        [{'category_id': 2, 'bbox': [10.0, 20.0, 20.0, 40.0], 'score': 0.75}]
    """
    assert instances.scores is not None
    if not (np.isfinite(instances.scores).all() and np.isfinite(instances.boxes).all()):
        raise UserError("scores or boxes are not finite numbers; check the weights")
    results = []
    for index, (x1, y1, x2, y2) in enumerate(np.asarray(instances.boxes, np.float64).tolist()):
        result: dict[str, Any] = {
            "category_id": categories[int(instances.labels[index])]["id"],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(instances.scores[index]),
        }
        if instances.masks is not None:
            result["segmentation"] = encode_mask(instances.masks[index])
        results.append(result)
    return results


def encode_mask(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Encodes a mask as COCO does.

    Args:
        mask: (H, W), bool.

    Returns:
        The run-length code: ``size`` (H, W) and ``counts``, a text.

    Example:
        >>> encode_mask(np.eye(2, dtype=bool))
        {'size': [2, 2], 'counts': '0120'}
    """
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def write_record(file: TextIO, record: Record) -> None:
    """Appends a record to a part and flushes the part, so that the record survives the end of the process.

    Args:
        file: The part, open for writing.
        record: The results of an image, or the reason for a failure.
    """
    file.write(json.dumps(record, allow_nan=False) + "\n")
    file.flush()


def read_records(parts: Iterable[Path]) -> Iterator[Record]:
    """Reads parts, one record at a time. Skips a line that a stopped process did not finish.

    Args:
        parts: The files, in the order of the processes.

    Yields:
        The records.
    """
    for part in parts:
        with part.open() as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)


def write_results(out: Path, parts: Sequence[Path], categories: Sequence[dict[str, Any]]) -> int:
    """Joins parts into COCO's two files, each written atomically. Holds one image at a time in memory.

    ``images.json`` contains the images, numbered from 1, and the categories. ``results.json`` contains the list of
    detections. ``COCO("images.json").loadRes("results.json")`` reads the two.

    Args:
        out: The output directory.
        parts: The files that :func:`write_record` has filled.
        categories: The categories, from :func:`make_categories`.

    Returns:
        The number of detections.

    Raises:
        UserError: A file cannot be written.
    """
    with atomic_write(out / "images.json") as part, part.open("w") as file:
        file.write(f'{{"info": {{}},\n"categories": {json.dumps(categories)},\n"images": ')
        _write_list(file, _images(parts))
        file.write("}\n")
    with atomic_write(out / "results.json") as part, part.open("w") as file:
        return _write_list(file, _detections(parts))


def _images(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """COCO's entries of the images that did not fail."""
    for number, record in _numbered(parts):
        yield {"id": number, **record["image"]}


def _detections(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """COCO's entries of the detections, with the image ids of :func:`_images`."""
    for number, record in _numbered(parts):
        for result in record["results"]:
            yield {"image_id": number, **result}


def _numbered(parts: Sequence[Path]) -> Iterator[tuple[int, Record]]:
    succeeded = (record for record in read_records(parts) if "image" in record)
    return enumerate(succeeded, start=1)


def _write_list(file: TextIO, items: Iterable[dict[str, Any]]) -> int:
    """Writes a JSON list, one item a line. Returns the number of items."""
    count = 0
    for item in items:
        file.write("[\n" if count == 0 else ",\n")
        file.write(json.dumps(item, allow_nan=False))
        count += 1
    file.write("]" if count else "[]")
    return count
