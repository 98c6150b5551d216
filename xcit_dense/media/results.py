"""Detections in COCO's format, written picture by picture, by one process or by several."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.structures import Instances
from xcit_dense.utils.files import atomic_write

try:
    from pycocotools import mask as coco_mask
except ImportError as error:
    raise MissingLibraryError("COCO's format needs pycocotools; write pip install pycocotools.") from error

Record = dict[str, Any]
"""What a process writes of a picture, one line of JSON: its image and results, or that and why it failed."""


def make_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's categories of some classes: with COCO's own ids if they are COCO's, else with ids from 1.

    Args:
        classes: Names, in the order of their indices.
    """
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    numbered = enumerate(MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])
    ids = {name: number for number, name in numbered if name not in ("__background__", "N/A")}
    if list(ids) != list(classes):
        ids = {name: 1 + number for number, name in enumerate(classes)}
    return [{"id": ids[name], "name": name} for name in classes]


def make_results(instances: Instances, categories: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Objects in COCO's format of results, without the number of their image.

    Args:
        instances: The objects of one picture, with scores.
        categories: From :func:`make_categories`.

    Raises:
        UserError: Scores or boxes are not finite, for which JSON has no numbers.
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
            encoded = coco_mask.encode(np.asfortranarray(instances.masks[index], np.uint8))
            result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        results.append(result)
    return results


def write_record(file: TextIO, record: Record) -> None:
    """Adds a record to a part, so that it is there even if the process ends.

    Args:
        file: The part.
        record: What became of a picture.
    """
    file.write(json.dumps(record, allow_nan=False) + "\n")
    file.flush()


def read_records(parts: Iterable[Path]) -> Iterator[Record]:
    """Reads parts, one record at a time, but for one that a run has left unfinished.

    Args:
        parts: The files, in the order of the processes.
    """
    for part in parts:
        with part.open() as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))


def write_results(out: Path, parts: Sequence[Path], categories: Sequence[dict[str, Any]]) -> int:
    """Joins parts to COCO's two files, each written whole or not at all. No more than one picture is in memory.

    ``images.json`` has images, numbered from 1, and categories; ``results.json`` the list of what was found in them, as
    ``COCO("images.json").loadRes("results.json")`` reads it.

    Args:
        out: The directory.
        parts: As for :func:`read_records`.
        categories: From :func:`make_categories`.

    Returns:
        The number of objects.

    Raises:
        UserError: They cannot be written.
    """

    def records() -> Iterator[tuple[int, Record]]:
        return enumerate((record for record in read_records(parts) if "image" in record), start=1)

    with atomic_write(out / "images.json") as part, part.open("w") as file:
        file.write(f'{{"info": {{}},\n"categories": {json.dumps(categories)},\n"images": ')
        _write_list(file, ({"id": number, **record["image"]} for number, record in records()))
        file.write("}\n")
    with atomic_write(out / "results.json") as part, part.open("w") as file:
        return _write_list(
            file, ({"image_id": number, **result} for number, record in records() for result in record["results"])
        )


def _write_list(file: TextIO, items: Iterable[dict[str, Any]]) -> int:
    count = 0
    for item in items:
        file.write(("[" if not count else ",") + "\n" + json.dumps(item, allow_nan=False))
        count += 1
    file.write("]" if count else "[]")
    return count
