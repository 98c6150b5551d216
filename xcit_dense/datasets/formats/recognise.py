"""Recognises the format of a data set: the table of all formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xcit_dense.datasets.formats import cityscapes, coco_files, csv_rle, label_maps, labelme, voc, voc_masks, yolo
from xcit_dense.datasets.formats.labels import LabelData
from xcit_dense.datasets.formats.objects import ObjectData
from xcit_dense.datasets.formats.painted import paint
from xcit_dense.datasets.formats.refused import explain
from xcit_dense.errors import UserError

Task = Literal["objects", "labels"]
"""What a model learns: objects (detection), or a class for each pixel (segmentation)."""


class UnknownFormatError(UserError):
    """A directory has no data in a known format."""


@dataclass(frozen=True)
class Format:
    """A format of data sets.

    Attributes:
        find: Finds a data set in a directory, or returns None if the directory has another format.
        signs: The files that show the format, for messages.
        suffixes: The endings of single files that ``find`` takes in place of a directory.
    """

    find: Callable[[Path], Any]
    signs: str
    suffixes: tuple[str, ...] = ()


# The first format that fits is taken.
OBJECT_FORMATS: tuple[Format, ...] = (
    Format(
        coco_files.find,
        "annotations/instances_train.json, train/_annotations.coco.json or another COCO file",
        (".json",),
    ),
    Format(yolo.find, "data.yaml, or label files with classes.txt (YOLO)", (".yaml", ".yml")),
    Format(voc.find, "XML files with bndbox (Pascal VOC)"),
    Format(labelme.find, "a JSON file with shapes for each image (LabelMe)"),
    Format(csv_rle.find, "a CSV file with ImageId, EncodedPixels and perhaps ClassId", (".csv",)),
)
LABEL_FORMATS: tuple[Format, ...] = (
    Format(cityscapes.find, "leftImg8bit and gtFine (Cityscapes)"),
    Format(voc_masks.find, "JPEGImages and SegmentationClass (Pascal VOC)"),
    Format(label_maps.find, f"images with label maps: {', '.join(label_maps.USUAL)} (train may also be training)"),
)

_FORMATS: Mapping[Task, Sequence[Format]] = {"objects": OBJECT_FORMATS, "labels": LABEL_FORMATS}


def recognise_objects(path: Path) -> ObjectData:
    """Recognises a data set whose images have objects: boxes or polygons.

    Args:
        path: The data directory, or a file that describes a data set.

    Returns:
        The data set. The annotations are not read yet.

    Raises:
        UserError: There is no data set with objects in a known format, or the data set has a fault.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> recognise_objects(write_shapes("recognised", train=2, val=1, size=64)).format
        'COCO'
    """
    data = _find(path, "objects")
    if data is not None:
        return data
    labels = None
    with suppress(UserError):  # a fault of data for another task does not explain anything
        labels = _find(path, "labels")
    if labels is not None:
        raise UserError(
            f"{path} has a class for each pixel ({labels.format}), and no boxes or polygons; train with a config for "
            "segmentation, such as upernet_xcit_s12 or sem_fpn_xcit_s12."
        )
    raise _unknown(path, OBJECT_FORMATS)


def recognise_labels(path: Path) -> LabelData:
    """Recognises a data set whose images have a class for each pixel. Objects with masks are painted as label maps.

    Args:
        path: The data directory, or a file that describes a data set.

    Returns:
        The data set. Label images are not read yet.

    Raises:
        UserError: There is no data set with labels or masks in a known format, or the data set has a fault.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> data = recognise_labels(write_shapes("recognised-labels", train=2, val=1, size=64))
        >>> data.format
        'images in images/training and label maps in annotations/training'
    """
    data = _find(path, "labels")
    if data is None:
        objects = _find(path, "objects")
        data = paint(objects) if objects is not None else None
    if data is None:
        raise _unknown(path, (*LABEL_FORMATS, *OBJECT_FORMATS))
    return data


def recognise(path: Path) -> ObjectData | LabelData:
    """Recognises a data set of any task.

    Args:
        path: The data directory, or a file that describes a data set.

    Returns:
        The data set. A directory with objects and with label images gives the objects.

    Raises:
        UserError: There is no data set in a known format, or the data set has a fault.
    """
    data = _find(path, "objects") or _find(path, "labels")
    if data is None:
        raise _unknown(path, (*OBJECT_FORMATS, *LABEL_FORMATS))
    return data


def _find(path: Path, task: Task) -> Any:
    """The data set in a directory, or in the only directory in the directory."""
    if not path.exists():
        raise UserError(f"No data directory at {path}; put the data there, or write --data-root DIR.")
    while True:
        for each in _FORMATS[task]:
            if path.is_dir() or path.suffix.lower() in each.suffixes:
                data = each.find(path)
                if data is not None:
                    return data
        inner = _only_directory(path)
        if inner is None:
            return None
        path = inner


def _only_directory(path: Path) -> Path | None:
    """The directory in a directory that contains nothing else, as unpacked archives do."""
    if not path.is_dir():
        return None
    entries = [entry for entry in path.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else None


def _unknown(path: Path, formats: Sequence[Format]) -> UserError:
    reason = explain(path)
    if reason is not None:
        return UserError(reason)
    if path.is_file():
        suffixes = sorted({suffix for each in formats for suffix in each.suffixes})
        return UserError(
            f"{path} does not describe a data set; write a directory, or a file with {', '.join(suffixes)} or .zip."
        )
    looked = "; ".join(each.signs for each in formats)
    return UnknownFormatError(
        f"No data in a known format in {path}; looked for: {looked}. Export your data in one of these formats."
    )
