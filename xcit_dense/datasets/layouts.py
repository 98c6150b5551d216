"""Data sets as people lay them out on disk: where the pictures and annotations are, and what the classes are called."""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import UserError
from xcit_dense.structures import IGNORED
from xcit_dense.utils.progress import tracked

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on files that are damaged, or are no pictures."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # those that keep values as they are

# What people call the three splits; "default" is CVAT's only one.
_SPLITS = {"train": ("train", "training", "default"), "val": ("val", "valid", "validation"), "test": ("test",)}
# Annotation files, and where their pictures may be; {} is a split.
_COCO = (
    ("annotations/instances_{}2017.json", ("{}2017", "images/{}2017")),
    ("annotations/instances_{}.json", ("{}", "images/{}", "images")),
    ("annotations/{}.json", ("{}", "images/{}", "images")),
    ("{}/_annotations.coco.json", ("{}",)),
    ("{}.json", ("{}", "images/{}", "images")),
)
# Pictures, and labels beside them.
_LABELS = (
    *(("images/{}", f"{labels}/{{}}") for labels in ("annotations", "labels", "masks")),
    *(("{}/images", f"{{}}/{labels}") for labels in ("annotations", "labels", "masks")),
    ("img_dir/{}", "ann_dir/{}"),
    *(("images", labels) for labels in ("annotations", "labels", "masks")),
)
_NAMES = ("classes.txt", "label_names.json")

_CATEGORIES = b'"categories"'
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_MASK = re.compile(rb'"segmentation"\s*:\s*(?:\{|\[\s*[\[{\d])')
_SAMPLE = 20  # pictures that tell a directory from others


@dataclass(frozen=True)
class Split:
    """Pictures and their annotations, as paths within the data directory.

    Attributes:
        pictures: Directory of the pictures.
        annotations: COCO's annotation file, or the directory of label pictures.
        picture_suffix: How names of pictures end; only beside label pictures.
        label_suffix: What stands there in the names of label pictures.
    """

    pictures: str
    annotations: str
    picture_suffix: str = ""
    label_suffix: str = ""


@dataclass(frozen=True)
class Layout:
    """The splits of a data set.

    Attributes:
        splits: ``'train'`` and, where they are there, ``'val'`` and ``'test'``.
        absent_val: Where a held-out split would be if there were one.
    """

    splits: dict[str, Split]
    absent_val: Split


def find_coco(root: Path) -> Layout:
    """Finds annotation files in COCO's format and their pictures.

    Args:
        root: The data directory.

    Raises:
        UserError: There is no training split in any of the usual places.
    """
    for file, directories in _COCO:
        splits = {}
        for split, names in _SPLITS.items():
            for name in names:
                if split not in splits and (root / file.format(name)).is_file():
                    annotations = file.format(name)
                    candidates = [directory.format(name) for directory in directories]
                    splits[split] = Split(_images_of(root, annotations, candidates), annotations)
        if "train" in splits:
            return Layout(splits, Split(directories[0].format("val"), file.format("val")))
    raise UserError(
        f"No COCO annotation file for training in {root}; looked for "
        f"{', '.join(file.format('train') for file, _ in _COCO)} (also named training or default). Give your files one "
        "of these names, with the pictures beside them."
    )


def find_labels(root: Path) -> Layout:
    """Finds directories of pictures and of label pictures.

    Args:
        root: The data directory.

    Raises:
        UserError: There is no training split in any of the usual places, or its names do not match.
    """
    for pictures, labels in _LABELS:
        splits = {}
        for split, names in _SPLITS.items():
            for name in names if "{}" in pictures else ("",) * (split == "train"):
                here, there = pictures.format(name), labels.format(name)
                if split not in splits and (root / here).is_dir() and (root / there).is_dir():
                    splits[split] = Split(here, there, *_suffixes(root / here, root / there))
        if "train" in splits:
            own = splits["train"]
            absent = Split(pictures.format("val"), labels.format("val"), own.picture_suffix, own.label_suffix)
            return Layout(splits, absent)
    looked = ", ".join(f"{pictures} + {labels}".format("train", "train") for pictures, labels in _LABELS)
    raise UserError(
        f"No pictures with label pictures for training in {root}; looked for {looked} (also named training). Give your "
        "directories these names."
    )


def files_in(directory: Path, suffixes: Sequence[str]) -> list[str]:
    """Names of files in and below a directory, sorted; any case of the suffixes counts."""
    found = (path for path in directory.rglob("*") if path.name.lower().endswith(tuple(map(str.lower, suffixes))))
    return sorted(path.relative_to(directory).as_posix() for path in found)


def has_masks(annotations: Path) -> bool:
    """Whether any annotation of a COCO file has a mask: a polygon or a run-length code."""
    with _mapped(annotations) as content:
        return _MASK.search(content) is not None


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Reads the categories of a COCO annotation file without reading the annotations, which can be half a gigabyte.

    Args:
        path: The JSON file.

    Returns:
        Its categories, in the file's order.

    Raises:
        UserError: The file has none, or ends too soon to have them.
    """
    complaint = UserError(
        f"{path} has no categories; add a list 'categories' of entries like {{'id': 1, 'name': 'person'}}."
    )
    if path.stat().st_size == 0:
        raise complaint
    with _mapped(path) as content:
        # Last in COCO's own files. The word may be a value too, say a picture's name.
        start = content.rfind(_CATEGORIES)
        while start >= 0 and not re.match(_CATEGORIES + rb"\s*:\s*\[", content[start : start + 99]):
            start = content.rfind(_CATEGORIES, 0, start)
        if start < 0:
            if not content[-99:].rstrip().endswith(b"}"):
                raise UserError(f"{path} is not valid JSON: it ends in the middle; write it, or copy it, once more.")
            raise complaint
        opening, size = content.find(b"[", start), 1 << 16
        while True:  # with pieces large enough to hold the whole list
            piece = content[opening : opening + size].decode(errors="replace")
            try:
                categories: list[dict[str, Any]] = json.JSONDecoder().raw_decode(piece)[0]
                break
            except json.JSONDecodeError as error:
                if opening + size >= len(content):
                    raise UserError(f"{path} is not valid JSON: {error}; write it, or copy it, once more.") from error
            size *= 2
    if not categories or not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in categories):
        raise complaint
    return categories


def read_names(root: Path) -> tuple[list[str], bool] | None:
    """Reads the class names that lie beside label pictures.

    Args:
        root: The data directory. It may hold ``classes.txt``, a name a line, or ``label_names.json``, names by value.

    Returns:
        The names in the order of their values, and whether they begin with value 1, so that 0 is no class; None where
        there is no such file.

    Raises:
        UserError: The file holds something else.
    """
    path = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if path is None:
        return None
    if path.suffix == ".txt":
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        first = 0
    else:
        try:
            by_value = {int(value): str(name) for value, name in json.loads(path.read_text("utf-8")).items()}
        except (ValueError, AttributeError) as error:
            raise UserError(
                f"{path} does not name classes by their values ({error}); write an object like "
                '{"0": "background", "1": "road"}.'
            ) from error
        by_value.pop(IGNORED, None)
        first = 1 if by_value and min(by_value) >= 1 else 0
        names = [by_value.get(value, f"class {value}") for value in range(first, max(by_value, default=-1) + 1)]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{path} has no names, or one twice; write one for each value of the label pictures.")
    return names, first == 1


def read_values(labels: Iterable[Path]) -> set[int]:
    """Values that occur in label pictures, `IGNORED` left out. Reads every one of them.

    Args:
        labels: The label pictures. Some may be damaged or hold colours: they are passed over.

    Raises:
        UserError: All of them are, or do.
    """
    values: set[int] = set()
    why = ""
    paths = list(labels)
    for path in tracked("label pictures read", paths):
        try:
            with Image.open(path) as label:
                if len(label.getbands()) == 1:
                    values |= counts(label).keys()
                else:
                    why = f"{path} holds colours ({label.mode})"
        except UNREADABLE as error:
            why = f"{path} cannot be read ({error})"
    if why and not values:
        raise UserError(
            f"None of {len(paths):,} label pictures holds one value a pixel, the number of its class; {why}. Save them "
            "as PNGs of one value a pixel, with or without a palette."
        )
    return values - {IGNORED}


def counts(label: Image.Image) -> dict[int, int]:
    """Pixels by value of a label picture of one band."""
    array: npt.NDArray[Any] = np.asarray(label)
    if array.dtype == np.uint8 or array.dtype == np.bool_:
        each = np.bincount(array.ravel().astype(np.uint8, copy=False))
        return {int(value): int(each[value]) for value in np.flatnonzero(each)}
    values, numbers = np.unique(array, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers)}


def read_palette(label: Path) -> list[tuple[int, int, int]]:
    """The colours (RGB, 0 to 255) of a label picture with a palette, by value; none where it has no palette."""
    try:
        with Image.open(label) as picture:
            flat = (picture.getpalette("RGB") or []) if picture.mode == "P" else []
    except UNREADABLE:
        return []
    return [(flat[start], flat[start + 1], flat[start + 2]) for start in range(0, len(flat) - 2, 3)]


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file that is not empty, of which only what is looked at is read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def _images_of(root: Path, annotations: str, candidates: Sequence[str]) -> str:
    """The directory in which the first pictures of an annotation file are."""
    names: list[str] = []
    if (root / annotations).stat().st_size:
        with _mapped(root / annotations) as content:
            for match, _ in zip(_FILE_NAME.finditer(content), range(_SAMPLE)):
                with suppress(ValueError):  # the whole file will be read, and refused, later
                    names.append(json.loads(match[1].decode(errors="replace")))
    # Some programs write names that begin at the data directory, or at that of the annotations.
    beside = Path(annotations).parent.as_posix()
    directories = [name for name in dict.fromkeys((*candidates, beside, ".")) if (root / name).is_dir()]
    if not directories:
        return candidates[0]
    best = max(directories, key=lambda directory: sum((root / directory / name).is_file() for name in names))
    return "" if best == "." else best


def _suffixes(pictures: Path, labels: Path) -> tuple[str, str]:
    """How names of pictures end, and what stands there in the names of their labels."""
    names = files_in(pictures, IMAGE_SUFFIXES)
    kinds = Counter(Path(name).suffix for name in names)
    if not names:
        raise UserError(f"No pictures in {pictures}; looked for {', '.join(IMAGE_SUFFIXES)}.")
    if len(kinds) > 1:
        raise UserError(
            f"The pictures in {pictures} are of several kinds ("
            f"{', '.join(f'{kind}: {number}' for kind, number in kinds.most_common())}); save all as one of them, as "
            "MMSegmentation finds pictures by one suffix."
        )
    (suffix,) = kinds
    files = files_in(labels, _LABEL_SUFFIXES)
    ends: Counter[str] = Counter()
    for name in names[:_SAMPLE]:
        stem = name.removesuffix(suffix)
        ends.update(file.removeprefix(stem) for file in files if file.startswith(stem))
    # "1" begins "10.png" too, but with another end for each.
    end = max(ends, key=lambda end: (ends[end], -len(end)), default=None)
    if end is None:
        raise UserError(
            f"No label picture in {labels} has the name of a picture in {pictures}, such as "
            f"{names[0].removesuffix(suffix)}.png; looked for {', '.join(_LABEL_SUFFIXES)}."
        )
    return suffix, end
