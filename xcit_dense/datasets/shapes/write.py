"""Writes the shapes data set: one directory with COCO's layout, instances and panoptic, and ADE20K's layout.

Instance masks and label maps are rasterised from the same polygons, so each pixel has the same class in all of them. In
the panoptic layout, shapes are things and the background is stuff.

    root/train2017/*.jpg                      root/val2017/*.jpg
    root/annotations/instances_train2017.json root/annotations/instances_val2017.json
    root/annotations/panoptic_train2017.json  root/annotations/panoptic_val2017.json
    root/annotations/panoptic_train2017/*.png root/annotations/panoptic_val2017/*.png
    root/images/training/*.jpg                root/images/validation/*.jpg
    root/annotations/training/*.png           root/annotations/validation/*.png
    root/classes.txt                          the names of the label maps' values
    root/shapes.json                          the parameters
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

from xcit_dense.datasets.panoptic import id2rgb
from xcit_dense.datasets.shapes.scene import CLASSES, MIN_SIZE, Instance, draw_scene, parts
from xcit_dense.errors import UserError
from xcit_dense.utils.progress import tracked

SEGMENTATION_CLASSES = ("background", *CLASSES)
PALETTE = ((90, 90, 90), (230, 85, 70), (70, 150, 230), (80, 190, 100), (245, 190, 50))
"""The RGB colours of `SEGMENTATION_CLASSES`, 0 to 255."""

FORMAT = 3  # raise this number if the same parameters give other files
_MANIFEST = "shapes.json"
_BACKGROUND: dict[str, Any] = {
    "id": 1 + len(CLASSES),
    "name": SEGMENTATION_CLASSES[0],
    "supercategory": "background",
    "isthing": 0,
}
# The name of each split in this package, in COCO and in ADE20K. The position is part of the random seed: append, do
# not reorder.
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
    """Writes the data set atomically. Does nothing if ``root`` already contains the same data set.

    An image depends only on seed, split, position and size. So a smaller data set is the beginning of a larger one, and
    the validation images are the same for any number of training images.

    Args:
        root: The directory to create. The directory may exist if it is empty or contains the same data set.
        train: The number of training images, 1 or more.
        val: The number of validation images, 0 or more.
        size: Width and height of the images in pixels, 64 or more.
        seed: 0 or more. Another seed gives other images.

    Returns:
        The absolute path of ``root``.

    Raises:
        UserError: A number is below its minimum, or ``root`` contains other files.

    Example:
        >>> root = write_shapes("shapes", train=3, val=1, size=64)
        >>> sorted(path.name for path in (root / "train2017").iterdir())
        ['000000000001.jpg', '000000000002.jpg', '000000000003.jpg']
        >>> (root / "classes.txt").read_text().split()
        ['background', 'circle', 'square', 'triangle', 'star']
    """
    manifest = {"format": FORMAT, "train": train, "val": val, "size": size, "seed": seed}
    for name, least in {"train": 1, "val": 0, "size": MIN_SIZE, "seed": 0}.items():
        if manifest[name] < least:
            raise UserError(f"{name} is {manifest[name]}; write {least} or more.")
    root = Path(root).expanduser().resolve()
    if _contains(root, manifest):
        _log.info("%s already contains this data set; nothing to do.", root)
        return root
    if Path(root, _MANIFEST).is_file():
        raise UserError(
            f"{root} contains a shapes data set with other parameters or of another release of xcit_dense; "
            "remove it or name another directory."
        )
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise UserError(f"{root} exists and contains other files; remove it or name another directory.")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch, root.name)  # a new directory, because the scratch directory has restricted permissions
        draft.mkdir()
        for position, count in enumerate((train, val)):
            _write_split(draft, position, count, size, seed)
        Path(draft, "classes.txt").write_text("".join(f"{name}\n" for name in SEGMENTATION_CLASSES))
        Path(draft, _MANIFEST).write_text(json.dumps(manifest) + "\n")
        if root.exists():
            root.rmdir()
        draft.replace(root)
    _log.info("Wrote %d training and %d validation images to %s.", train, val, root)
    return root


def _contains(root: Path, manifest: dict[str, int]) -> bool:
    """Whether ``root`` contains the data set with these parameters."""
    try:
        return bool(json.loads(Path(root, _MANIFEST).read_text()) == manifest)
    except (OSError, ValueError):
        return False


def _write_split(root: Path, split: int, count: int, size: int, seed: int) -> None:
    """Writes one split in both layouts."""
    _, coco_name, ade_name = _SPLITS[split]
    image_directory = root / coco_name
    links = root / "images" / ade_name
    labels = root / "annotations" / ade_name
    segments = root / "annotations" / f"panoptic_{coco_name}"
    for directory in (image_directory, links, labels, segments):
        directory.mkdir(parents=True)

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index in tracked("images", range(count)):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split, index, size)))
        scene = draw_scene(rng, size)
        image_id = index + 1
        file = image_directory / f"{image_id:012d}.jpg"
        Image.fromarray(scene.image).save(file, quality=_JPEG_QUALITY)
        _link(file, links / file.name)
        images.append({"id": image_id, "file_name": file.name, "height": size, "width": size})

        label_map = np.ones((size, size), np.uint8)
        segment_map = np.ones((size, size), np.int32)  # 1 is the background
        categories: dict[int, int] = {1: _BACKGROUND["id"]}
        for number, instance in enumerate(scene.instances, start=2):
            annotation, mask = annotate(instance, size)
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
            label_map[mask] = 2 + instance.label
            segment_map[mask] = number
            categories[number] = annotation["category_id"]
        Image.fromarray(label_map).save(labels / f"{file.stem}.png")
        Image.fromarray(id2rgb(segment_map)).save(segments / f"{file.stem}.png")
        described = [_describe_segment(segment_map == number, number, each) for number, each in categories.items()]
        panoptic.append({"image_id": image_id, "file_name": f"{file.stem}.png", "segments_info": described})

    content: dict[str, Any] = {
        "info": {"description": f"xcit_dense shapes, {coco_name}", "version": str(FORMAT)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1 + label, "name": name, "supercategory": "shape"} for label, name in enumerate(CLASSES)],
    }
    Path(root, "annotations", f"instances_{coco_name}.json").write_text(json.dumps(content))
    for category in content["categories"]:
        category["isthing"] = 1
    content["categories"].append(_BACKGROUND)
    content["annotations"] = panoptic
    Path(root, "annotations", f"panoptic_{coco_name}.json").write_text(json.dumps(content))


def _describe_segment(mask: npt.NDArray[np.bool_], number: int, category: int) -> dict[str, Any]:
    """Describes a segment, a mask (size, size), as COCO's panoptic format does."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": number,
        "category_id": category,
        "bbox": coco_mask.toBbox(encoded).tolist(),
        "area": int(mask.sum()),
        "iscrowd": 0,
    }


def annotate(instance: Instance, size: int) -> tuple[dict[str, Any], npt.NDArray[np.bool_]]:
    """Converts an instance to an annotation in COCO's format and a mask.

    Args:
        instance: The shape.
        size: Width and height of the image.

    Returns:
        The annotation without ids, and the mask (size, size).
    """
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
    """Gives a file a second name, or copies the file if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
