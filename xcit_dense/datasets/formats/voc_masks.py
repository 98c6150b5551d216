"""Pascal VOC's class masks: JPEGImages, SegmentationClass and lists of names. CVAT and labelme2voc write them too."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from xcit_dense.datasets.formats.colours import find_table
from xcit_dense.datasets.formats.label_maps import files_in, read_names
from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.datasets.formats.pairing import LABEL_SUFFIXES, stem_of
from xcit_dense.datasets.formats.splits import IMAGE_SUFFIXES, SPLITS
from xcit_dense.errors import UserError

_IMAGES = "JPEGImages"
_LABELS = ("SegmentationClass", "SegmentationClassPNG")  # older versions of labelme2voc write the second
_LISTS = ("ImageSets/Segmentation", "ImageSets/Main", "ImageSets")

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes of Pascal VOC, in the order of their values."""


def find(root: Path) -> LabelData | None:
    """Finds images with Pascal VOC's class masks.

    Args:
        root: The data directory, with ``JPEGImages`` and ``SegmentationClass``, perhaps with lists of names in
            ``ImageSets/Segmentation`` and a ``labelmap.txt``.

    Returns:
        The data set. Images without a class mask are not part of it. None if the directories do not exist.

    Raises:
        UserError: A list names an image that does not exist, or there are no pairs for training.
    """
    labels = next((name for name in _LABELS if files_in(root / name, LABEL_SUFFIXES)), None)
    if labels is None:
        return None
    images = next((name for name in (_IMAGES, "images") if (root / name).is_dir()), None)
    if images is None:
        raise UserError(
            f"{root / labels} contains class masks, but {root / _IMAGES} does not exist; export the images too (in "
            "CVAT, switch on 'Save images')."
        )
    image_of = {stem_of(name): f"{images}/{name}" for name in files_in(root / images, IMAGE_SUFFIXES)}
    label_of = {stem_of(name): f"{labels}/{name}" for name in files_in(root / labels, LABEL_SUFFIXES)}
    lists = _read_lists(root)
    splits: dict[str, list[Pair]] = {}
    without = 0
    for split, stems in (lists or {"train": sorted(image_of)}).items():
        unknown = [stem for stem in stems if stem not in image_of]
        if unknown:
            raise UserError(
                f"The list of the split {split!r} in {root / _LISTS[0]} names {unknown[0]}, but {root / images} has no "
                f"image with this name ({len(unknown)} in all are missing); copy the images there, or correct the list."
            )
        pairs = [Pair(image_of[stem], label_of[stem]) for stem in stems if stem in label_of]
        without += len(stems) - len(pairs)
        if pairs:
            splits[split] = pairs
    if "train" not in splits:
        raise UserError(f"No image of the training split in {root / images} has a class mask in {root / labels}.")
    table = find_table([root])
    names = read_names(root)
    classes = tuple(names[0]) if names else None
    if classes is None and table is None and root.name.upper().startswith("VOC20"):
        classes = VOC_CLASSES
    notes = (f"{without} images without a class mask are left out.",) if without else ()
    return LabelData("Pascal VOC (class masks)", root, splits, classes, table=table, notes=notes)


def _read_lists(root: Path) -> dict[str, list[str]]:
    """The names of each split's images, without suffixes. Empty if there are no lists."""
    for directory in _LISTS:
        lists = {}
        for split, names in SPLITS.items():
            for name in names:
                path = root / directory / f"{name}.txt"
                if path.is_file():
                    lines = [line.split()[0] for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
                    lists[split] = [stem_of(_without_directory(line)) for line in lines]
                    break
        if "train" in lists:
            return lists
    return {}


def _without_directory(name: str) -> str:
    """A name without the directory that some programs write in front."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.parts[path.parts.index(_IMAGES) + 1 :] if _IMAGES in path.parts else path.parts
    return str(PurePosixPath(*parts))
