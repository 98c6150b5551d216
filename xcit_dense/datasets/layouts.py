"""Finds images and annotations in a data directory, and reads class names, values and colours."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.media.images import UNREADABLE
from xcit_dense.structures import IGNORED, Colour
from xcit_dense.utils.progress import tracked

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # formats without loss

# The usual names of the three splits. CVAT exports a single split with the name "default".
_SPLITS = {"train": ("train", "training", "default"), "val": ("val", "valid", "validation"), "test": ("test",)}
# Annotation files, and the directories that may contain their images. {} stands for the name of a split.
_COCO = (
    ("annotations/instances_{}2017.json", ("{}2017", "images/{}2017")),
    ("annotations/instances_{}.json", ("{}", "images/{}", "images")),
    ("annotations/{}.json", ("{}", "images/{}", "images")),
    ("{}/_annotations.coco.json", ("{}",)),
    ("{}.json", ("{}", "images/{}", "images")),
)
# Directories of images, and of their label maps.
_LABELS = (
    *(("images/{}", f"{labels}/{{}}") for labels in ("annotations", "labels", "masks")),
    *(("{}/images", f"{{}}/{labels}") for labels in ("annotations", "labels", "masks")),
    ("img_dir/{}", "ann_dir/{}"),
    *(("images", labels) for labels in ("annotations", "labels", "masks")),
)
_NAMES = ("classes.txt", "label_names.json")

_SAMPLE = 20  # this many image names are enough to recognise the images' directory


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


# COCO


def find_coco(root: Path) -> Layout:
    """Finds annotation files in COCO's format, and the images that they name.

    Args:
        root: The data directory.

    Returns:
        The layout.

    Raises:
        UserError: No usual place contains annotations for training, or an annotation file is not valid JSON.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> root = write_shapes("found-coco", train=2, val=1, size=64)
        >>> layout = find_coco(root)
        >>> layout.splits["train"].images, layout.splits["train"].annotations
        ('train2017', 'annotations/instances_train2017.json')
    """
    for file, directories in _COCO:
        splits = {}
        for split, names in _SPLITS.items():
            name = next((name for name in names if (root / file.format(name)).is_file()), None)
            if name is not None:
                annotations = file.format(name)
                candidates = [directory.format(name) for directory in directories]
                splits[split] = Split(_find_images(root, annotations, candidates), annotations)
        if "train" in splits:
            return Layout(splits, Split(directories[0].format("val"), file.format("val")))
    looked = ", ".join(file.format("train") for file, _ in _COCO)
    raise UserError(
        f"No COCO annotation file for training in {root}; looked for {looked} (train may also be training or default). "
        "Give your files one of these names, with the images next to them."
    )


def has_masks(annotations: Path) -> bool:
    """Whether any annotation of a COCO file has a mask: a polygon or a run-length code.

    Args:
        annotations: The JSON file.

    Returns:
        Whether there is a mask. Empty polygons do not count.

    Raises:
        UserError: The file is not valid JSON.
    """
    return _read_contents(annotations).has_masks


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Reads the categories of a COCO annotation file, with little memory: the file may have half a gigabyte.

    Args:
        path: The JSON file.

    Returns:
        The categories, in the file's order.

    Raises:
        UserError: The file is not valid JSON, or has no categories.
    """
    categories = _read_contents(path).categories
    if not isinstance(categories, list) or not categories or not all(map(_is_category, categories)):
        raise UserError(
            f"{path} has no categories; add a list 'categories' of entries like {{'id': 1, 'name': 'person'}}."
        )
    return list(categories)


def read_json(path: Path) -> Any:
    """Reads a JSON file as pycocotools reads it: NaN is accepted, a byte order mark is not.

    Args:
        path: The file.

    Returns:
        The content.

    Raises:
        UserError: The file is not valid JSON.
    """
    # Parsing creates millions of objects and no cycles. The garbage collector visits all objects again and again and
    # takes 40 % of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON: {error}. The file may be incomplete; export it, or copy it, again."
        ) from error
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True)
class _Contents:
    """The parts of an annotation file that are needed before the annotations are read.

    Attributes:
        file_names: The names of the first images.
        has_masks: Whether any annotation has a mask.
        categories: The file's categories, not yet checked. None if the file has none.
    """

    file_names: tuple[str, ...]
    has_masks: bool
    categories: Any


def _read_contents(path: Path) -> _Contents:
    status = path.stat()
    return _read_contents_once(path.absolute(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _read_contents_once(path: Path, modified: int, size: int) -> _Contents:
    """Reads a file and remembers the result. A changed file has another time or size, and is read again."""
    try:
        import ijson
    except ImportError as error:
        raise MissingLibraryError("COCO files are read with ijson; write pip install ijson.") from error
    try:
        return _stream_contents(path)
    except ijson.JSONError:
        # ijson refuses NaN, which Python's json accepts. And Python's json reports the place of an error.
        content = read_json(path)
    if not isinstance(content, dict):
        content = {}
    images = [image for image in _list(content, "images") if isinstance(image, dict)]
    annotations = [annotation for annotation in _list(content, "annotations") if isinstance(annotation, dict)]
    return _Contents(
        _names([image.get("file_name") for image in images]),
        any(_is_mask(annotation.get("segmentation")) for annotation in annotations),
        content.get("categories"),
    )


def _stream_contents(path: Path) -> _Contents:
    """Reads the parts of a file in a stream. Each part ends its stream, so only the last part costs time.

    Measured on a file of 144 MB in COCO's order (categories last): 3.9 s of CPU time and 14 MB of memory. json.loads
    takes 8.7 s and 850 MB.
    """
    names = list(islice(_stream(path, "images.item.file_name"), _SAMPLE))
    masks = any(map(_is_mask, _stream(path, "annotations.item.segmentation")))
    return _Contents(_names(names), masks, next(_stream(path, "categories"), None))


def _stream(path: Path, prefix: str) -> Iterator[Any]:
    """The values at a place in a JSON file, in ijson's notation: ``images.item`` is each entry of the list images."""
    import ijson

    with path.open("rb") as file:
        yield from ijson.items(file, prefix, use_float=True)


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    return value if isinstance(value, list) else []


def _names(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(value for value in values[:_SAMPLE] if isinstance(value, str))


def _is_mask(segmentation: Any) -> bool:
    if isinstance(segmentation, list):
        return any(polygon not in ([], None) for polygon in segmentation)
    return isinstance(segmentation, dict) and bool(segmentation)


def _is_category(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def _find_images(root: Path, annotations: str, candidates: Sequence[str]) -> str:
    """The directory that contains the first images of an annotation file."""
    names = _read_contents(root / annotations).file_names
    # Some programs write names that start at the data directory, or at the annotation file's directory.
    next_to_file = Path(annotations).parent.as_posix()
    best, most = candidates[0], -1
    for directory in (*candidates, next_to_file, "."):
        if (root / directory).is_dir():
            count = sum((root / directory / name).is_file() for name in names)
            if count > most:
                best, most = directory, count
    return "" if best == "." else best


# Label maps


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
        for split, names in _SPLITS.items():
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
    for name in names[:_SAMPLE]:
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
