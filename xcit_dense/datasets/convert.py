"""Writes a data set of any recognised format as clean COCO files, or as images and label maps."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from xcit_dense.datasets.as_coco import count_content
from xcit_dense.datasets.as_coco import describe as describe_objects
from xcit_dense.datasets.formats.labels import LabelData
from xcit_dense.datasets.formats.meaning import interpret, read_values
from xcit_dense.datasets.formats.objects import Content, ObjectData, select_classes
from xcit_dense.datasets.formats.recognise import recognise, recognise_labels, recognise_objects
from xcit_dense.datasets.formats.validation import Validation, split_off_labels, split_off_objects
from xcit_dense.datasets.label_files import describe as describe_labels
from xcit_dense.datasets.label_files import write_label_map
from xcit_dense.datasets.unpack import unpack
from xcit_dense.errors import UserError
from xcit_dense.structures import IGNORED
from xcit_dense.utils.progress import tracked

Kind = Literal["coco", "labels"]
"""What :func:`convert_data` writes: COCO files with images, or label maps with images."""


def convert_data(
    source: Path,
    target: Path,
    to: Kind | None = None,
    *,
    classes: Sequence[str] | None = None,
    ignore_zero: bool = False,
    validation: Validation | None = None,
    colours: Path | None = None,
    link: bool = False,
) -> list[str]:
    r"""Writes a data set of any recognised format as clean COCO files, or as images and label maps.

    COCO files are ``annotations/instances_SPLIT.json``, with the images in ``SPLIT``. Label maps are PNG files in
    ``labels/SPLIT``, with the images in ``images/SPLIT`` and the names of the classes in ``classes.txt``.

    Args:
        source: A data directory, a file that describes a data set, or a ``.zip`` file.
        target: The directory to write. It appears when all of its files are written.
        to: What to write. None writes label maps if the data consists of label images, and COCO files otherwise.
        classes: The names of the classes of label images, in the order of their values. With boxes and polygons, the
            names of the categories to keep. None takes the names and categories of the data.
        ignore_zero: Whether 0 in label images marks pixels without a label, so that the classes start at 1.
        validation: How to split validation images off the training images. None splits nothing off.
        colours: A table of the colours in the label images (:func:`xcit_dense.datasets.formats.colours.read_table`).
        link: Whether the images become symbolic links to the source's images. Otherwise they are copies.

    Returns:
        Sentences that describe the data.

    Raises:
        UserError: The target has files already, the format is unknown, or the data has faults.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> shapes = write_shapes("converted-shapes", train=2, val=1, size=64)
        >>> print(*convert_data(shapes, Path("clean"), "labels", ignore_zero=True), sep="\n")  # doctest: +ELLIPSIS
        Images in images/training and label maps in annotations/training, in ...converted-shapes:
          train: 2 images, 5 classes (...)
          val: 1 images, 5 classes (...)
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} has files already; write a directory that is empty or does not exist.")
    with _complete_directory(target) as part:
        if source.suffix.lower() == ".zip":
            if link:
                raise UserError("--link cannot link to images in a .zip file; remove --link, or unpack the file.")
            source = unpack(source, part / ".unpacked")
        data = _recognise(source, to)
        put = _link if link else _copy
        if isinstance(data, ObjectData):
            if colours:
                raise UserError(f"--colours is for label images, but the data is {data.format}; remove --colours.")
            data = split_off_objects(data, validation) if validation else data
            if ignore_zero:
                raise UserError(f"--ignore-zero is for label images, but the data is {data.format}; remove it.")
            sentences = _write_objects(data, part, put, classes)
        else:
            data = split_off_labels(data, validation) if validation else data
            data = interpret(data, classes, ignore_zero=ignore_zero, colours=colours)
            sentences = _write_labels(data, part, put)
        shutil.rmtree(part / ".unpacked", ignore_errors=True)
    return sentences


@contextmanager
def _complete_directory(target: Path) -> Iterator[Path]:
    """A hidden directory that becomes the target if the block succeeds, and is removed if the block fails."""
    part = target.absolute().with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # an interrupted process has left it
    part.mkdir(parents=True)
    try:
        yield part
        if target.exists():
            target.rmdir()
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _recognise(source: Path, to: Kind | None) -> ObjectData | LabelData:
    if to == "labels":
        return recognise_labels(source)
    return recognise_objects(source) if to == "coco" else recognise(source)


def _write_objects(
    data: ObjectData, target: Path, put: Callable[[Path, Path], None], classes: Sequence[str] | None
) -> list[str]:
    (target / "annotations").mkdir()
    counts = {}
    for split, read in data.splits.items():
        content = read()
        if classes is not None:
            content = _keep_classes(data, content, classes)
        counts[split] = count_content(content)
        names = _short_names([image["file_name"] for image in content["images"]])
        _put_images(data.root, target / split, names, put)
        path = target / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(_with_names(content, names)), "utf-8")
    return describe_objects(data, counts)


def _keep_classes(data: ObjectData, content: Content, classes: Sequence[str]) -> Content:
    present = [str(category["name"]) for category in content["categories"]]
    unknown = [name for name in classes if name not in present]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the categories of the data in {data.root} are "
            f"{', '.join(present)}; write some of these names."
        )
    return select_classes(content, [name for name in present if name in classes])


def _with_names(content: Content, names: Mapping[str, str]) -> Content:
    images = [{**image, "file_name": names[image["file_name"]]} for image in content["images"]]
    return {**content, "images": images}


def _write_labels(data: LabelData, target: Path, put: Callable[[Path, Path], None]) -> list[str]:
    read = data.read_label or partial(read_values, data.root)
    classes = data.classes or ()
    counts = {}
    for split, pairs in data.splits.items():
        names = _short_names([pair.image for pair in pairs], unique_stems=True)
        _put_images(data.root, target / "images" / split, names, put)
        pixels: Counter[int] = Counter()
        for pair in tracked("label maps written", pairs):
            if not (data.root / pair.label).is_file():
                raise UserError(f"The image {pair.image} in {data.root} has no label map {pair.label}.")
            label = read(pair)
            if data.ignore_zero:
                label = np.where((label == 0) | (label == IGNORED), IGNORED, label - 1).astype(np.uint8)
            path = (target / "labels" / split / names[pair.image]).with_suffix(".png")
            write_label_map(path, label, data.palette)
            numbers = np.bincount(label.ravel(), minlength=IGNORED + 1)
            if numbers[len(classes) : IGNORED].any():
                value = len(classes) + int(numbers[len(classes) : IGNORED].argmax())
                raise UserError(
                    f"The label map {pair.label} in {data.root} contains {value}, but there are {len(classes)} "
                    "classes; name all classes in classes.txt, or write --ignore-zero if the values begin with 1."
                )
            pixels.update({value: int(number) for value, number in enumerate(numbers) if number})
        counts[split] = pixels
    (target / "classes.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
    return describe_labels(replace(data, ignore_zero=False), counts)


def _short_names(images: Sequence[str], unique_stems: bool = False) -> dict[str, str]:
    """Names without the directories that all images share.

    Args:
        images: The paths of the images.
        unique_stems: Whether names must differ without their suffixes, so that each image has a label map of its own.
    """
    parents = [PurePosixPath(image).parent.parts for image in images]
    shared = 0
    while parents and all(len(parts) > shared and parts[shared] == parents[0][shared] for parts in parents):
        shared += 1
    names: dict[str, str] = {}
    stems: set[PurePosixPath] = set()
    for image in images:
        path = PurePosixPath(*PurePosixPath(image).parts[shared:])
        stem = path.stem
        for number in count(2):
            if not unique_stems or path.with_suffix("") not in stems:
                break
            path = path.with_stem(f"{stem}_{number}")
        stems.add(path.with_suffix(""))
        names[image] = path.as_posix()
    return names


def _put_images(root: Path, target: Path, names: Mapping[str, str], put: Callable[[Path, Path], None]) -> None:
    for image, name in tracked("images written", list(names.items())):
        if not (root / image).is_file():
            raise UserError(f"{root / image} does not exist, but the annotations name it; put the image there.")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        put(root / image, target / name)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _link(source: Path, target: Path) -> None:
    target.symlink_to(source.absolute())
