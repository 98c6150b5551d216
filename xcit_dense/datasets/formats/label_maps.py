"""Label maps, images with one value a pixel: found next to their images, and read with their names and colours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.datasets.formats.splits import IMAGE_SUFFIXES, SAMPLE_NAMES, SPLITS, Layout, Split
from xcit_dense.errors import UserError
from xcit_dense.media.images import UNREADABLE
from xcit_dense.structures import IGNORED, Colour
from xcit_dense.utils.progress import tracked

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # formats without loss
# Directories of images, and of their label maps.
_LABELS = (
    *(("images/{}", f"{labels}/{{}}") for labels in ("annotations", "labels", "masks")),
    *(("{}/images", f"{{}}/{labels}") for labels in ("annotations", "labels", "masks")),
    ("img_dir/{}", "ann_dir/{}"),
    *(("images", labels) for labels in ("annotations", "labels", "masks")),
)
_NAMES = ("classes.txt", "label_names.json")


def find_labels(root: Path) -> Layout:
    """Finds directories of images and of label maps. A label map is an image with one value a pixel: its class.

    Args:
        root: The data directory.

    Returns:
        The layout.

    Raises:
        UserError: No usual place contains images and label maps for training, or their names do not match.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> root = write_shapes("found-labels", train=2, val=1, size=64)
        >>> find_labels(root).splits["val"]  # doctest: +NORMALIZE_WHITESPACE
        Split(images='images/validation', annotations='annotations/validation',
            image_suffix='.jpg', label_suffix='.png')
    """
    for images, labels in _LABELS:
        splits = {}
        for split, names in SPLITS.items():
            if "{}" not in images:
                names = ("",) if split == "train" else ()
            for name in names:
                image_directory, label_directory = images.format(name), labels.format(name)
                if (root / image_directory).is_dir() and (root / label_directory).is_dir():
                    suffixes = _find_suffixes(root / image_directory, root / label_directory)
                    splits[split] = Split(image_directory, label_directory, *suffixes)
                    break
        if "train" in splits:
            train = splits["train"]
            absent = Split(images.format("val"), labels.format("val"), train.image_suffix, train.label_suffix)
            return Layout(splits, absent)
    looked = ", ".join(f"{images} + {labels}".format("train", "train") for images, labels in _LABELS)
    raise UserError(
        f"No images with label maps for training in {root}; looked for {looked} (train may also be training). Give "
        "your directories these names."
    )


def files_in(directory: Path, suffixes: Sequence[str]) -> list[str]:
    """Lists the files in and below a directory.

    Args:
        directory: The directory.
        suffixes: The ends of the wanted names, in lower or upper case.

    Returns:
        The paths relative to the directory, sorted.
    """
    ends = tuple(suffix.lower() for suffix in suffixes)
    found = [path for path in directory.rglob("*") if path.name.lower().endswith(ends)]
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
        names = [line.strip() for line in lines if line.strip()]
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


def _find_suffixes(images: Path, labels: Path) -> tuple[str, str]:
    """The end of the images' names, and the end that replaces it in the label maps' names."""
    names = files_in(images, IMAGE_SUFFIXES)
    if not names:
        raise UserError(f"No images in {images}; looked for {', '.join(IMAGE_SUFFIXES)}.")
    kinds = Counter(Path(name).suffix for name in names)
    if len(kinds) > 1:
        listed = ", ".join(f"{kind}: {number}" for kind, number in kinds.most_common())
        raise UserError(
            f"The images in {images} have several suffixes ({listed}); save all images with the same suffix, because "
            "MMSegmentation finds images by one suffix."
        )
    (suffix,) = kinds
    label_names = files_in(labels, _LABEL_SUFFIXES)
    ends: Counter[str] = Counter()
    for name in names[:SAMPLE_NAMES]:
        stem = name.removesuffix(suffix)
        ends.update(label.removeprefix(stem) for label in label_names if label.startswith(stem))
    if not ends:
        raise UserError(
            f"No label map in {labels} has the name of an image in {images}, such as "
            f"{names[0].removesuffix(suffix)}.png; looked for {', '.join(_LABEL_SUFFIXES)}."
        )
    # The stem "1" also begins "10.png", but the rest of the name is then different for each image.
    label_suffix = max(ends, key=lambda end: (ends[end], -len(end)))
    return suffix, label_suffix
