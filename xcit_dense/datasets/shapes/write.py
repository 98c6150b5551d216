"""The shapes data set on disk: one directory in COCO's layout and in ADE20K's.

Instances and label maps are rasterised from the same polygons, so the two tasks agree to the pixel.

    root/train2017/*.jpg                      root/val2017/*.jpg
    root/annotations/instances_train2017.json root/annotations/instances_val2017.json
    root/images/training/*.jpg                root/images/validation/*.jpg
    root/annotations/training/*.png           root/annotations/validation/*.png
    root/shapes.json                          what the directory holds
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from xcit_dense.datasets.shapes.scene import CLASSES, MIN_SIZE, Instance, draw_scene, parts
from xcit_dense.errors import UserError
from xcit_dense.utils.progress import tracked

SEGMENTATION_CLASSES = ("background", *CLASSES)
PALETTE = ((90, 90, 90), (230, 85, 70), (70, 150, 230), (80, 190, 100), (245, 190, 50))
"""RGB colours, 0 to 255, of `SEGMENTATION_CLASSES`."""

FORMAT = 2  # to be raised whenever the same parameters give other files
_MANIFEST = "shapes.json"
# Our name, COCO's, ADE20K's. The position seeds the split: append, never reorder.
_SPLITS = (("train", "train2017", "training"), ("val", "val2017", "validation"))
_JPEG_QUALITY = 92

_log = logging.getLogger(__name__)


def write_shapes(
    root: str | os.PathLike[str],
    *,
    train: int = 400,
    val: int = 100,
    size: int = 256,
    seed: int = 0,
) -> Path:
    """Writes the data set, or leaves it alone where it already stands.

    A picture depends on seed, split, position and size only: a smaller data set is the beginning
    of a larger one, and the held-out pictures are the same for any number of training pictures.
    ``root`` appears complete or not at all.

    Args:
        root: Directory to make. It may exist if it is empty or holds the same data set.
        train: Number of training pictures, 1 or more.
        val: Number of held-out pictures, 0 or more.
        size: Width and height of the pictures in pixels, 64 or more.
        seed: 0 or more; another seed gives other pictures.

    Returns:
        The absolute path of ``root``.

    Raises:
        UserError: A number is below its least value, or ``root`` holds anything else.
    """
    manifest = {"format": FORMAT, "train": train, "val": val, "size": size, "seed": seed}
    for name, least in {"train": 1, "val": 0, "size": MIN_SIZE, "seed": 0}.items():
        if manifest[name] < least:
            raise UserError(f"{name} is {manifest[name]}; write {least} or more.")
    root = Path(root).expanduser().resolve()
    if _holds(root, manifest):
        _log.info("%s already holds this data set; nothing to do.", root)
        return root
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(
            f"{root} exists and holds something else than these shapes; remove it or name another directory."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch, root.name)  # unlike the scratch directory, with usual permissions
        draft.mkdir()
        for position, count in enumerate((train, val)):
            _write_split(draft, position, count, size, seed)
        Path(draft, "classes.txt").write_text("".join(f"{name}\n" for name in SEGMENTATION_CLASSES))
        Path(draft, _MANIFEST).write_text(json.dumps(manifest) + "\n")
        if root.exists():
            root.rmdir()
        draft.replace(root)
    _log.info("Wrote %d training and %d held-out pictures to %s.", train, val, root)
    return root


def _holds(root: Path, manifest: dict[str, int]) -> bool:
    """Whether ``root`` is the data set that ``manifest`` describes."""
    try:
        return bool(json.loads(Path(root, _MANIFEST).read_text()) == manifest)
    except (OSError, ValueError):
        return False


def _write_split(root: Path, split: int, count: int, size: int, seed: int) -> None:
    """Writes one split in both layouts."""
    _, coco_name, ade_name = _SPLITS[split]
    pictures = root / coco_name
    links = root / "images" / ade_name
    labels = root / "annotations" / ade_name
    for directory in (pictures, links, labels):
        directory.mkdir(parents=True)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in tracked("pictures", range(count)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split, index, size)))
        scene = draw_scene(rng, size)
        image_id = index + 1
        file = pictures / f"{image_id:012d}.jpg"
        Image.fromarray(scene.image).save(file, quality=_JPEG_QUALITY)
        _link(file, links / file.name)
        images.append({"id": image_id, "file_name": file.name, "height": size, "width": size})

        label_map = np.ones((size, size), np.uint8)
        for instance in scene.instances:
            annotation, mask = _annotate(instance, size)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
            label_map[mask] = 2 + instance.label
        Image.fromarray(label_map).save(labels / f"{file.stem}.png")

    content = {
        "info": {"description": f"xcit_dense shapes, {coco_name}", "version": str(FORMAT)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1 + label, "name": name, "supercategory": "shape"} for label, name in enumerate(CLASSES)],
    }
    Path(root, "annotations", f"instances_{coco_name}.json").write_text(json.dumps(content))


def _annotate(instance: Instance, size: int) -> tuple[dict[str, Any], npt.NDArray[np.bool_]]:
    """An instance in COCO's terms, and its mask, size x size."""
    polygons = [np.asarray(part.exterior.coords)[:-1].round(2).ravel().tolist() for part in parts(instance.visible)]
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, size, size))
    annotation = {
        "category_id": 1 + instance.label,
        "segmentation": polygons,
        "bbox": coco_mask.toBbox(encoded).tolist(),
        "area": float(coco_mask.area(encoded)),
        "iscrowd": 0,
    }
    return annotation, coco_mask.decode(encoded).astype(bool)


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
