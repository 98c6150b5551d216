"""Data sets with objects as clean COCO files: written once, and described with their counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xcit_dense.datasets.formats.coco import read_categories
from xcit_dense.datasets.formats.coco_files import count_objects
from xcit_dense.datasets.formats.objects import Content, ObjectData, select_classes
from xcit_dense.datasets.formats.splits import Layout, Split
from xcit_dense.datasets.prepare import prepare
from xcit_dense.errors import UserError

_NAMES = 20  # a line has this many classes at most


@dataclass(frozen=True)
class Counts:
    """The numbers of a split.

    Attributes:
        images: The number of images.
        objects: The number of objects of each class, in the order of the classes.
    """

    images: int
    objects: Mapping[str, int]

    def __str__(self) -> str:
        """Words such as ``14 images, 48 objects (cat 40, dog 8)``."""
        chosen = dict(sorted(self.objects.items(), key=lambda item: -item[1])[:_NAMES])
        names = ", ".join(f"{name} {self.objects[name]:,}" for name in self.objects if name in chosen)
        more = f" and {len(self.objects) - _NAMES} more classes" if len(self.objects) > _NAMES else ""
        return f"{self.images:,} images, {sum(self.objects.values()):,} objects ({names}{more})"


def count_content(content: Content) -> Counts:
    """Counts the images and objects of a split.

    Args:
        content: The content.
    """
    numbers = Counter(annotation["category_id"] for annotation in content["annotations"])
    return Counts(
        len(content["images"]), {category["name"]: numbers[category["id"]] for category in content["categories"]}
    )


def count_file(path: Path) -> Counts:
    """Counts the images and objects of a COCO file, with little memory.

    Args:
        path: The file.
    """
    images, numbers = count_objects(path)
    return Counts(images, {category["name"]: numbers[str(category["id"])] for category in read_categories(path)})


def write_coco(data: ObjectData, directory: Path, classes: Sequence[str] | None = None) -> dict[str, Counts]:
    """Writes a data set as COCO files, ``train.json`` and so on.

    Args:
        data: The data set.
        directory: The directory of the files.
        classes: The names of the categories, in their order. None keeps the categories of the data.

    Returns:
        The counts of each split.

    Raises:
        UserError: The data has faults, or none of the classes.
    """
    counts = {}
    for split, read in data.splits.items():
        content = read()
        if classes is not None:
            content = _select_classes(data, split, content, classes)
        counts[split] = count_content(content)
        (directory / f"{split}.json").write_text(json.dumps(content), "utf-8")
    return counts


def _select_classes(data: ObjectData, split: str, content: Content, classes: Sequence[str]) -> Content:
    present = [str(category["name"]) for category in content["categories"]]
    missing = [name for name in classes if name not in present]
    if len(missing) == len(classes):
        raise UserError(
            f"The {data.format} data in {data.root} has the classes {', '.join(present)}, but the model knows "
            f"{', '.join(classes)}; give data with some of these classes."
        )
    for name in missing:
        data.notes.add("classes of the model that the data does not have", f"{split}: {name}")
    for name in present:
        if name not in classes:
            data.notes.add("classes that the model does not know, whose objects are left out", f"{split}: {name}")
    return select_classes(content, classes)


def prepare_coco(
    data: ObjectData, directory: Path, settings: Any, classes: Sequence[str] | None = None
) -> tuple[Layout, list[str]]:
    r"""Writes a data set as COCO files once, for all processes of a run and for later runs.

    Args:
        data: The data set.
        directory: Where the files are made, for example ``WORK_DIR/data``.
        settings: What else the files depend on, such as the fraction and the seed of a validation split.
        classes: As for :func:`write_coco`.

    Returns:
        The layout of the files, and sentences that describe the data.

    Raises:
        UserError: The data has faults.

    Example:
        >>> from xcit_dense.datasets.formats.recognise import recognise_objects
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> data = recognise_objects(write_shapes("prepared-coco", train=2, val=1, size=64))
        >>> layout, sentences = prepare_coco(data, Path("work/data"), {})
        >>> print(*sentences, sep="\n")  # doctest: +ELLIPSIS
        COCO data in ...prepared-coco:
          train: 2 images, 5 objects (circle 3, square 0, triangle 1, star 1)
          val: 1 images, 2 objects (circle 1, square 1, triangle 0, star 0)
    """

    def write(part: Path) -> None:
        counts = write_coco(data, part, classes)
        (part / "description.txt").write_text("\n".join(describe(data, counts)), "utf-8")

    settings = [data.format, str(data.root.absolute()), sorted(data.splits), settings, classes]
    made = prepare(directory.absolute(), "coco", data.sources, settings, write)
    splits = {split: Split("", str(made / f"{split}.json")) for split in data.splits}
    layout = Layout(splits, Split("val", "annotations/instances_val.json"))
    return layout, (made / "description.txt").read_text("utf-8").splitlines()


def describe(data: ObjectData, counts: Mapping[str, Counts]) -> list[str]:
    """Describes a data set: its format, its counts and its notes.

    Args:
        data: The data set.
        counts: The counts of each split.

    Returns:
        Sentences to print.
    """
    lines = [f"{data.format} data in {data.root}:"]
    lines += [f"  {split}: {numbers}" for split, numbers in counts.items()]
    return [*lines, *(f"  note: {note}" for note in data.notes)]
