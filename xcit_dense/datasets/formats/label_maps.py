"""Label maps, images with one value a pixel: found next to their images, and read with their names and colours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.datasets.formats.colours import find_table
from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.datasets.formats.pairing import LABEL_SUFFIXES, Naming, find_naming, match, split_directory, stem_of
from xcit_dense.datasets.formats.splits import IMAGE_SUFFIXES, SPLITS, Layout, Split
from xcit_dense.errors import UserError
from xcit_dense.media.images import UNREADABLE
from xcit_dense.structures import IGNORED, Colour
from xcit_dense.utils.files import visible_files
from xcit_dense.utils.progress import tracked

# Directories of images, and of their label images. {} stands for the name of a split.
_IMAGES = ("images", "imgs", "img", "image", "JPEGImages", "rgb", "inputs", "input")
_LABELS = (
    "annotations",
    "labels",
    "masks",
    "mask",
    "label",
    "gt",
    "segmentations",
    "segmentation",
    "annotation",
    "targets",
)
_LAYOUTS = (
    *((f"{images}/{{}}", f"{labels}/{{}}") for images in _IMAGES for labels in _LABELS),
    *((f"{{}}/{images}", f"{{}}/{labels}") for images in _IMAGES for labels in _LABELS),
    ("img_dir/{}", "ann_dir/{}"),
    *(("{}", f"{{}}{end}") for end in ("_labels", "_masks", "_mask", "_label", "annot", "_gt")),
    *((f"{{}}_{images}", f"{{}}_{labels}") for images in ("images", "imgs") for labels in ("labels", "masks", "mask")),
    *((images, labels) for images in _IMAGES for labels in _LABELS),
    ("{}", "{}"),
    *((f"{images}/{{}}", f"{images}/{{}}") for images in _IMAGES),
    *((images, images) for images in _IMAGES),
    (".", "."),
)
USUAL = (
    *(f"images/train + {labels}/train" for labels in _LABELS[:3]),
    *(f"train/images + train/{labels}" for labels in _LABELS[:3]),
    "img_dir/train + ann_dir/train",
    "train + train_labels",
    *(f"images + {labels}" for labels in _LABELS[:3]),
    "a.jpg + a_mask.png in one directory",
)
"""The most usual of these places, for messages."""
_LOSSY = (".jpg", ".jpeg")
_NAMES = ("classes.txt", "label_names.json", "class_names.txt")


def find(root: Path) -> LabelData | None:
    """Finds images and their label images in the usual directories, with the usual names.

    A label image is found by the name that it shares with its image: ``a.jpg`` and ``a.png``, ``a_mask.png``,
    ``a_leftImg8bit.png`` and ``a_gtFine_labelIds.png``. The directories may have one suffix of images, or several.

    Args:
        root: The data directory.

    Returns:
        The data set. None if no usual place contains images and label images.

    Raises:
        UserError: A usual place contains images and label images whose names do not match.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> data = find(write_shapes("found-pairs", train=2, val=1, size=64))
        >>> data.splits["val"]
        [Pair(image='images/validation/000000000001.jpg', label='annotations/validation/000000000001.png')]
    """
    fault: UserError | None = None
    for images, labels in _LAYOUTS:
        found: dict[str, _Directories] = {}
        try:
            for split, names in SPLITS.items():
                for name in names if "{}" in images else ("",) if split == "train" else ():
                    directories = _find_directories(root, images.format(name), labels.format(name))
                    if directories:
                        found[split] = directories
                        break
        except UserError as error:
            fault = fault or error
            continue
        if "train" in found:
            return _make_data(root, found, Split(images.format("val"), labels.format("val")))
    if fault:
        raise fault
    return None


def find_labels(root: Path) -> Layout:
    """Finds directories of images and of label maps. A label map is an image with one value a pixel: its class.

    Args:
        root: The data directory.

    Returns:
        The layout.

    Raises:
        UserError: No usual place contains images and label maps for training, or their names do not match, or no pair
            of suffixes describes their names.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> root = write_shapes("found-labels", train=2, val=1, size=64)
        >>> find_labels(root).splits["val"]  # doctest: +NORMALIZE_WHITESPACE
        Split(images='images/validation', annotations='annotations/validation',
            image_suffix='.jpg', label_suffix='.png')
    """
    data = find(root)
    if data is None:
        raise no_labels(root)
    if data.layout is None:
        raise UserError(
            f"No pair of suffixes describes the images and label maps in {root}; use "
            "xcit_dense.datasets.formats.label_maps.find, which lists the pairs."
        )
    return data.layout


def no_labels(root: Path) -> UserError:
    """Returns the error for a directory without images and label images in a usual place."""
    return UserError(
        f"No images with label maps for training in {root}; looked for {', '.join(USUAL)} (train may also be "
        "training). Give your directories these names."
    )


def files_in(directory: Path, suffixes: Sequence[str]) -> list[str]:
    """Lists the visible files in and below a directory (:func:`xcit_dense.utils.files.visible_files`).

    Args:
        directory: The directory.
        suffixes: The ends of the wanted names, in lower or upper case.

    Returns:
        The paths relative to the directory, sorted.
    """
    ends = tuple(suffix.lower() for suffix in suffixes)
    if not directory.is_dir():
        return []
    found = [path for path in visible_files(directory) if path.name.lower().endswith(ends)]
    return sorted(path.relative_to(directory).as_posix() for path in found)


def read_names(root: Path) -> tuple[list[str], bool] | None:
    """Reads the class names of label maps.

    Args:
        root: The data directory, with ``classes.txt`` (one name a line) or ``label_names.json`` (names by value).

    Returns:
        The names in the order of their values, and whether the values begin with 1, so that 0 is not a class. None if
        neither file exists.

    Raises:
        UserError: The file has another content.
    """
    path = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if path is None:
        return None
    first = 0
    if path.suffix == ".txt":
        lines = path.read_text("utf-8-sig").splitlines()
        # labelme2voc writes the line __ignore__ for 255.
        names = [line.strip() for line in lines if line.strip() not in ("", "__ignore__")]
    else:
        by_value = _read_names_by_value(path)
        first = 1 if by_value and min(by_value) >= 1 else 0
        names = [by_value.get(value, f"class {value}") for value in range(first, max(by_value, default=-1) + 1)]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{path} has no names, or the same name twice; write one name for each value of label maps.")
    return names, first == 1


def _read_names_by_value(path: Path) -> dict[int, str]:
    try:
        content = json.loads(path.read_text("utf-8"))
        by_value = {int(value): str(name) for value, name in content.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not name classes by their values ({error}); write an object like "
            '{"0": "background", "1": "road"}.'
        ) from error
    if by_value.keys() == {0, IGNORED}:  # a mask of 0 and 255, which is read as 0 and 1
        return {0: by_value[0], 1: by_value[IGNORED]}
    by_value.pop(IGNORED, None)
    return by_value


def read_values(labels: Iterable[Path]) -> set[int]:
    """Reads the values that occur in label maps, except :data:`IGNORED`. Opens every label map.

    Args:
        labels: The label maps. Damaged files and files with colours are skipped.

    Returns:
        The values.

    Raises:
        UserError: Every file is damaged or has colours.
    """
    values: set[int] = set()
    why = ""
    paths = list(labels)
    for path in tracked("label maps read", paths):
        try:
            with Image.open(path) as label:
                if len(label.getbands()) == 1:
                    values |= counts(label).keys()
                else:
                    why = f"{path} has colours ({label.mode})"
        except UNREADABLE as error:
            why = f"{path} cannot be read ({error})"
    if why and not values:
        raise UserError(
            f"None of {len(paths):,} label maps has one value a pixel, the number of the pixel's class: {why}. Save "
            "the label maps as PNG files with one value a pixel, with or without a palette."
        )
    return values - {IGNORED}


def counts(label: Image.Image) -> dict[int, int]:
    """Counts the pixels of each value in a label map.

    Args:
        label: An image with one band.

    Returns:
        The number of pixels by value.
    """
    array: npt.NDArray[Any] = np.asarray(label)
    if array.dtype == np.uint8 or array.dtype == np.bool_:
        by_value = np.bincount(array.ravel().astype(np.uint8, copy=False))  # faster than np.unique
        return {int(value): int(by_value[value]) for value in np.flatnonzero(by_value)}
    values, numbers = np.unique(array, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers)}


def read_palette(label: Path) -> list[Colour]:
    """Reads the palette of a label map.

    Args:
        label: The label map's file.

    Returns:
        The colours by value. Empty if the file has no palette, or is not readable.
    """
    try:
        with Image.open(label) as image:
            palette = image.getpalette("RGB") if image.mode == "P" else None
    except UNREADABLE:
        return []
    colours = np.array(palette or [], int).reshape(-1, 3).tolist()
    return [(red, green, blue) for red, green, blue in colours]


@dataclass(frozen=True)
class _Directories:
    """The files of one split.

    Attributes:
        images: The directory of the images.
        labels: The directory of the label images.
        naming: How the names differ.
        matches: Each image and its label image, relative to their directories.
        unused: The number of label images that have the names of label images, and no image.
    """

    images: str
    labels: str
    naming: Naming
    matches: list[tuple[str, str | None]]
    unused: int


def _find_directories(root: Path, images: str, labels: str) -> _Directories | None:
    """The pairs of two directories, which may be the same. None if one does not exist or contains no images."""
    images, labels = _existing(root, images), _existing(root, labels)
    if not images or not labels:
        return None
    if images == labels:
        image_names, label_names = split_directory(files_in(root / images, IMAGE_SUFFIXES))
    else:
        label_names = files_in(root / labels, LABEL_SUFFIXES)
        image_names = files_in(root / images, IMAGE_SUFFIXES) if label_names else []
        lossy = [] if label_names else files_in(root / labels, _LOSSY)
        if lossy and files_in(root / images, IMAGE_SUFFIXES):
            raise UserError(
                f"The label images in {root / labels} are JPEG files such as {lossy[0]}, whose pixels have not exactly "
                "the values that were saved; export the label images as PNG."
            )
    if not image_names or not label_names:
        return None
    naming = find_naming(image_names, label_names)
    if naming is None:
        raise UserError(
            f"No label map in {root / labels} has the name of an image in {root / images}, such as "
            f"{stem_of(image_names[0])}.png; looked for {', '.join(LABEL_SUFFIXES)}."
        )
    matches = match(image_names, label_names, naming)
    ends = tuple(f"{naming.label_tail}{suffix}".lower() for suffix in LABEL_SUFFIXES)
    used = {label for _, label in matches}
    unused = sum(label.lower().endswith(ends) for label in label_names if label not in used)
    return _Directories(images, labels, naming, matches, unused)


def _existing(root: Path, directory: str) -> str:
    """The directory as the file system writes it, in lower or upper case. Empty if it does not exist."""
    found = Path()
    for part in Path(directory).parts:
        names = [part] if (root / found / part).is_dir() else _directories_in(root / found)
        name = next((name for name in names if name.lower() == part.lower()), None)
        if name is None:
            return ""
        found /= name
    return found.as_posix()


def _directories_in(directory: Path) -> list[str]:
    return [path.name for path in sorted(directory.iterdir()) if path.is_dir()]


def _make_data(root: Path, found: Mapping[str, _Directories], absent: Split) -> LabelData:
    """Describes the pairs of all splits."""
    pairs = {}
    for name, each in found.items():
        pairs[name] = [
            Pair(
                PurePosixPath(each.images, image).as_posix(),
                PurePosixPath(each.labels, label or _missing(each.naming, image)).as_posix(),
            )
            for image, label in each.matches
        ]
    splits = {name: _as_split(root, each) for name, each in found.items()}
    layout = None
    if all(splits.values()):
        known = {name: split for name, split in splits.items() if split}
        layout = Layout(known, replace(known["train"], images=absent.images, annotations=absent.annotations))
    names = read_names(root)
    tables = [find_table([root, root / each.images, root / each.labels]) for each in found.values()]
    table = tables[0]
    if table and any(other and other.classes != table.classes for other in tables):
        raise UserError(
            f"The colour tables of the splits name different classes: {', '.join(t.source for t in tables if t)}."
        )
    train = found["train"]
    unused = sum(each.unused for each in found.values())
    places = f"images in {train.images} and label maps in {train.labels}"
    if train.images == train.labels:
        places = "images next to their label maps"
    return LabelData(
        places,
        root,
        pairs,
        classes=tuple(names[0]) if names else None,
        ignore_zero=bool(names and names[1]),
        table=table,
        sources=[path for path in (root / name for name in _NAMES) if path.is_file()],
        layout=layout,
        notes=(f"{unused:,} label maps without an image are passed over.",) if unused else (),
    )


def _missing(naming: Naming, image: str) -> str:
    """The expected name of a label map that does not exist, for the check's report."""
    return f"{naming.label(image) or stem_of(image)}{LABEL_SUFFIXES[0]}"


def _as_split(root: Path, found: _Directories) -> Split | None:
    """The suffixes by which MMSegmentation finds the same pairs itself. None if it would find others."""
    naming = found.naming
    images = {PurePosixPath(image).suffix for image, _ in found.matches}
    labels = {PurePosixPath(label).suffix for _, label in found.matches if label}
    if naming.head or naming.label_head or naming.keeps_suffix or len(images) > 1 or len(labels) > 1:
        return None
    suffix = f"{naming.tail}{images.pop()}"
    # MMSegmentation searches hidden directories too, and endless in a cycle of links.
    for parent, directories, _ in os.walk(root / found.images):
        if any(name.startswith(".") or Path(parent, name).is_symlink() for name in directories):
            return None
    listed = [name for name in files_in(root / found.images, [suffix]) if name.endswith(suffix)]
    if listed != [image for image, _ in found.matches]:
        return None
    return Split(found.images, found.labels, suffix, f"{naming.label_tail}{labels.pop() if labels else '.png'}")
