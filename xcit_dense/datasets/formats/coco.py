"""Annotation files in COCO's format: found, and read with little memory."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from xcit_dense.datasets.formats.splits import SAMPLE_NAMES, SPLITS, Layout, Split
from xcit_dense.errors import MissingLibraryError, UserError

# Annotation files, and the directories that may contain their images. {} stands for the name of a split.
_COCO = (
    ("annotations/instances_{}2017.json", ("{}2017", "images/{}2017")),
    ("annotations/instances_{}.json", ("{}", "images/{}", "images")),
    ("annotations/{}.json", ("{}", "images/{}", "images")),
    ("{}/_annotations.coco.json", ("{}",)),
    ("{}.json", ("{}", "images/{}", "images")),
)


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
        for split, names in SPLITS.items():
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
        Whether there is a mask. Polygons of fewer than three points do not count.

    Raises:
        UserError: The file is not valid JSON.
    """
    return _read_contents(annotations).has_masks


def read_categories(path: Path, classes: Collection[str] = ()) -> list[dict[str, Any]]:
    """Reads the categories of a COCO annotation file, with little memory: the file may have half a gigabyte.

    Args:
        path: The JSON file.
        classes: The names of the classes in use, as for :func:`choose_categories`.

    Returns:
        The categories, in the file's order, as :func:`rename_categories` and :func:`choose_categories` return them.

    Raises:
        UserError: The file is not valid JSON, or has no categories.
    """
    categories = _read_contents(path).categories
    categories = rename_categories(categories) if isinstance(categories, list) else []
    if not categories or not all(map(_is_category, categories)):
        raise UserError(
            f"{path} has no categories; add a list 'categories' of entries like {{'id': 1, 'name': 'person'}}."
        )
    return choose_categories(categories, lambda: _stream(path, "annotations.item.category_id"), classes)


def rename_categories(categories: Sequence[Any]) -> list[Any]:
    """Makes text of category names that are numbers.

    Args:
        categories: The list from a file.

    Returns:
        The list with new entries for the changed ones.

    Example:
        >>> rename_categories([{"id": 1, "name": 7}])
        [{'id': 1, 'name': '7'}]
    """
    return [
        {**entry, "name": str(entry["name"])} if isinstance(entry, dict) and _is_number(entry.get("name")) else entry
        for entry in categories
    ]


def choose_categories(
    categories: list[Any], read_used: Callable[[], Iterable[Any]], classes: Collection[str] = ()
) -> list[Any]:
    """Leaves out categories that stand for no class of their own and that no object has.

    Roboflow writes the name of the project as a first category, the ``supercategory`` of all the others. The same name
    may also be the name of a class.

    Args:
        categories: The list from a file.
        read_used: Returns the category id of each object. Called only if there is a category that may be left out.
        classes: The names of the classes in use. A category of these names is kept, unless another one has its name.

    Returns:
        The other categories. All categories if an entry of the list is not valid.

    Example:
        >>> choose_categories(
        ...     [
        ...         {"id": 0, "name": "fruit", "supercategory": "none"},
        ...         {"id": 1, "name": "apple", "supercategory": "fruit"},
        ...     ],
        ...     lambda: [1, 1, 1],
        ... )
        [{'id': 1, 'name': 'apple', 'supercategory': 'fruit'}]
    """
    if not all(map(_is_category, categories)):
        return categories
    numbers = Counter(category["name"] for category in categories)
    suspects = [
        category
        for category in categories
        if numbers[category["name"]] > 1 or (category["name"] not in classes and _is_above_all(category, categories))
    ]
    if not suspects:
        return categories
    used = {str(value) for value in read_used()}
    chosen = list(categories)
    # A project comes before its classes. Of two unused categories with the same name, the second one is kept.
    for category in sorted(suspects, key=lambda each: not _is_above_all(each, categories)):
        is_last = numbers[category["name"]] == 1 and not _is_above_all(category, categories)
        if str(category.get("id")) not in used and not is_last:
            numbers[category["name"]] -= 1
            chosen = [each for each in chosen if each is not category]
    return chosen


def _is_above_all(category: dict[str, Any], categories: Sequence[dict[str, Any]]) -> bool:
    """Whether a category is the supercategory of all the others."""
    others = [each for each in categories if each is not category]
    if category.get("supercategory") == category["name"] or not others:
        return False
    return all(each.get("supercategory") == category["name"] for each in others)


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


def import_ijson() -> Any:
    """Imports ijson.

    Raises:
        MissingLibraryError: ijson is not installed.
    """
    try:
        import ijson
    except ImportError as error:
        raise MissingLibraryError("COCO files are read with ijson; write pip install ijson.") from error
    return ijson


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
    if not size:
        return _Contents((), False, None)
    ijson = import_ijson()
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
    names = list(islice(_stream(path, "images.item.file_name"), SAMPLE_NAMES))
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
    # Programs for Windows write backslashes. repair() reads them as separators.
    return tuple(value.replace("\\", "/") for value in values[:SAMPLE_NAMES] if isinstance(value, str))


def _is_mask(segmentation: Any) -> bool:
    if isinstance(segmentation, list):  # polygons, or a single polygon: x, y, x, y, ...
        lists = [part for part in segmentation if isinstance(part, list)] or [segmentation]
        return any(len(polygon) >= 6 for polygon in lists)
    return isinstance(segmentation, dict) and bool(segmentation)


def _is_category(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
