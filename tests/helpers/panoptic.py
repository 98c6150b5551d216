"""A tiny panoptic data set in COCO's layout, and a stand-in for panopticapi, which PyPI does not have."""

import json
import shutil
import sys
from types import ModuleType

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

STUFF = "background"


def write_panoptic(shapes, root):
    """Writes the embedded data set as panoptic data: its shapes are things, and the rest of an image is stuff.

    Args:
        shapes: The embedded data set.
        root: The directory to write. The images and the objects are copied.
    """
    shutil.copytree(shapes, root)
    for split in ("train2017", "val2017"):
        objects = COCO(root / f"annotations/instances_{split}.json")
        stuff = max(objects.cats) + 1
        directory = root / f"annotations/panoptic_{split}"
        directory.mkdir()
        annotations = []
        for image in objects.imgs.values():
            ids = np.zeros((image["height"], image["width"]), int)
            segments = {}
            for number, each in enumerate(objects.imgToAnns[image["id"]], start=2):
                ids[objects.annToMask(each).astype(bool)] = number
                segments[number] = each["category_id"]
            ids[ids == 0] = 1
            segments[1] = stuff
            name = f"{image['file_name'].rpartition('.')[0]}.png"
            channels = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1)
            Image.fromarray(channels.astype(np.uint8)).save(directory / name)
            annotations.append(
                {
                    "image_id": image["id"],
                    "file_name": name,
                    "segments_info": [_segment(ids, number, label) for number, label in segments.items()],
                }
            )
        categories = [{**each, "isthing": 1} for each in objects.cats.values()]
        categories.append({"id": stuff, "name": STUFF, "isthing": 0})
        content = {"images": list(objects.imgs.values()), "annotations": annotations, "categories": categories}
        (root / f"annotations/panoptic_{split}.json").write_text(json.dumps(content))


def _segment(ids, number, label):
    rows, columns = np.nonzero(ids == number)
    if not len(rows):
        return {"id": number, "category_id": label, "iscrowd": 0, "area": 0, "bbox": [0, 0, 0, 0]}
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    return {
        "id": number,
        "category_id": label,
        "iscrowd": 0,
        "area": len(rows),
        "bbox": [int(value) for value in box],
    }


def install_panopticapi(monkeypatch):
    """Makes the part of panopticapi importable that MMDetection calls when it reads an image."""
    utils = ModuleType("panopticapi.utils")
    utils.rgb2id = lambda colour: colour.astype(int) @ [1, 256, 256**2]
    package = ModuleType("panopticapi")
    package.utils = utils
    package.__spec__ = ModuleType("spec")  # find_spec reads it
    monkeypatch.setitem(sys.modules, "panopticapi", package)
    monkeypatch.setitem(sys.modules, "panopticapi.utils", utils)
