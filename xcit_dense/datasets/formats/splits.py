"""What readers of all formats share: the splits of a data set, their usual names, and the names of image files."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# CVAT exports a single split with the name "default".
SPLITS = {"train": ("train", "training", "default"), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The usual names of the three splits."""

SAMPLE_NAMES = 20
"""This many image names are enough to recognise the images' directory."""


@dataclass(frozen=True)
class Split:
    """Images and their annotations. The paths are relative to the data directory.

    Attributes:
        images: The directory of the images.
        annotations: COCO's annotation file, or the directory of the label maps.
        image_suffix: The end of each image's name. Empty for COCO.
        label_suffix: The end of each label map's name, in place of the image's. Empty for COCO.
    """

    images: str
    annotations: str
    image_suffix: str = ""
    label_suffix: str = ""


@dataclass(frozen=True)
class Layout:
    """The splits of a data set.

    Attributes:
        splits: The splits that exist, by ``'train'``, ``'val'`` and ``'test'``. ``'train'`` always exists.
        absent_val: The expected place of the validation split, for messages where the split does not exist.
    """

    splits: dict[str, Split]
    absent_val: Split
