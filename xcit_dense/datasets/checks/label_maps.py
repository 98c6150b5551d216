"""Checks images and their label maps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xcit_dense.datasets.checks.report import Mark, Report
from xcit_dense.datasets.checks.sample import by, count_classes, mark_sample, read_size, sampled
from xcit_dense.datasets.formats.label_maps import counts, files_in
from xcit_dense.datasets.formats.labels import Pair
from xcit_dense.datasets.formats.splits import Split
from xcit_dense.media.images import UNREADABLE
from xcit_dense.structures import IGNORED
from xcit_dense.utils.progress import tracked

_LISTED = 12  # a summary gives the shares of this many classes


def check_labels(
    root: Path,
    split: Split,
    classes: Sequence[str],
    *,
    ignore_zero: bool = False,
    limit: int | None = None,
    bands: Sequence[int] = (),
) -> Report:
    """Checks images and their label maps.

    Args:
        root: The data directory.
        split: The directories of the images and of the label maps.
        classes: The names of the classes, in the order of their values.
        ignore_zero: Whether 0 marks pixels without a label, and the classes begin with 1.
        limit: The largest number of images to open, with their label maps, evenly spread. None opens all images.
        bands: The numbers of the bands that training reads. Empty if training reads ordinary images.

    Returns:
        The faults.

    Example:
        >>> from xcit_dense.datasets.formats.label_maps import find_labels
        >>> from xcit_dense.datasets.shapes import SEGMENTATION_CLASSES, write_shapes
        >>> root = write_shapes("checked-labels", train=4, val=1, size=64)
        >>> split = find_labels(root).splits["train"]
        >>> report = check_labels(root, split, SEGMENTATION_CLASSES, ignore_zero=True)
        >>> report.summary.partition(" (")[0], report.errors  # the shares of the classes follow
        ('4 images, 5 classes', 0)
    """
    images, labels = root / split.images, root / split.annotations
    # MMSegmentation finds images by the same rule: the suffix is case-sensitive.
    names = [name for name in files_in(images, [split.image_suffix]) if name.endswith(split.image_suffix)]
    pairs = [Pair(name, name.removesuffix(split.image_suffix) + split.label_suffix) for name in names]
    report = check_pairs(images, labels, pairs, classes, ignore_zero=ignore_zero, limit=limit, bands=bands)
    expected = {pair.label for pair in pairs}
    for label in files_in(labels, [split.label_suffix]):
        if label not in expected:
            report.warning("label maps without an image", label)
    if not pairs:
        report.error("directories without images", f"{images}, *{split.image_suffix}")
    return report


def check_pairs(
    images: Path,
    labels: Path,
    pairs: Sequence[Pair],
    classes: Sequence[str],
    *,
    ignore_zero: bool = False,
    limit: int | None = None,
    bands: Sequence[int] = (),
) -> Report:
    """Checks pairs of images and label maps.

    Args:
        images: The directory that the names of the images start from.
        labels: The directory that the names of the label maps start from.
        pairs: The names.
        classes: The names of the classes, in the order of their values.
        ignore_zero: Whether 0 marks pixels without a label, and the classes begin with 1.
        limit: The largest number of images to open, with their label maps, evenly spread. None opens all images.
        bands: The numbers of the bands that training reads. Empty if training reads ordinary images.

    Returns:
        The faults.
    """
    parents = {(images / pair.image).parent for pair in pairs}
    report = Report(Path(os.path.commonpath(parents)) if parents else images)
    pixels: Counter[int] = Counter()
    opened = 0
    for pair, is_sampled in tracked("images checked", mark_sample(list(pairs), limit)):
        exists = (labels / pair.label).is_file()
        if not exists:
            report.error("images without a label map", pair.label, Mark(images / pair.image))
        opened += is_sampled
        if is_sampled:
            entry = _read_label_size(labels / pair.label)
            size = read_size(report, images / pair.image, pair.image, entry, bands)
            if exists:
                pixels.update(_check_label(report, images, labels, pair, size, len(classes), ignore_zero))
    _check_values(report, pixels, classes, labels, ignore_zero, has_images=bool(pairs))
    shares = _describe_shares([pixels[value] for value in range(int(ignore_zero), len(classes) + ignore_zero)], classes)
    report.summary = f"{len(pairs):,} images{sampled(opened, len(pairs))}, {count_classes(len(classes))}{shares}"
    return report


def _describe_shares(pixels: Sequence[int], classes: Sequence[str]) -> str:
    """Words for the share of the labelled pixels that each class has. Empty if no pixel is labelled."""
    total = sum(pixels)
    if not total:
        return ""
    words = [f"{name} {100 * number / total:.1f} %" for name, number in zip(classes, pixels)][:_LISTED]
    if len(classes) > _LISTED:
        words.append(f"and {len(classes) - _LISTED} more")
    return f" ({', '.join(words)})"


def _read_label_size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as label:
            return label.size
    except UNREADABLE:  # missing, or reported with the values
        return None


def _check_values(
    report: Report, pixels: Counter[int], classes: Sequence[str], labels: Path, ignore_zero: bool, has_images: bool
) -> None:
    """Checks the numbers of pixels by value, over all opened label maps."""
    is_any_labelled = False
    for value, name in enumerate(classes, start=int(ignore_zero)):
        if pixels[value]:
            is_any_labelled = True
        else:
            report.warning("classes without pixels", name)
    if has_images and not is_any_labelled:
        report.error("directories without any labelled pixel", str(labels))
    if pixels[0] and pixels[IGNORED] and set(+pixels) == {0, IGNORED} and not ignore_zero and len(classes) > 1:
        # Training would learn one class. Masks of 0 and 255 mean an object by 255, which training ignores.
        report.error("label maps that contain only 0 and 255, and 255 is ignored, so no object is left", str(labels))
    if is_any_labelled and not ignore_zero and not pixels[0]:
        what = "labels without the value 0 (if values begin with 1, write --ignore-zero)"
        if pixels[len(classes)]:  # one value more than there are classes
            report.error(what, str(labels))
        else:
            report.warning(what, str(labels))


def _check_label(
    report: Report,
    images: Path,
    labels: Path,
    pair: Pair,
    size: tuple[int, int] | None,
    classes: int,
    ignore_zero: bool,
) -> dict[int, int]:
    """The numbers of pixels by value of a label map. Empty if the label map is not readable."""
    path, name, mark = labels / pair.label, pair.label, Mark(images / pair.image)
    try:
        with Image.open(path) as label:
            if size and label.size != size:
                where = f"{name}: {by(label.size)}, not {by(size)}"
                report.error("label maps of another size than their image", where, mark)
            if len(label.getbands()) > 1:
                report.error("label maps that have colours, not one value a pixel", f"{name}: {label.mode}", mark)
                return {}
            pixels = counts(label)
    except UNREADABLE as error:
        report.error("unreadable label maps", f"{name}: {error}", mark)
        return {}
    first = int(ignore_zero)
    last = classes + first - 1
    unknown = [value for value in pixels if value != IGNORED and not 0 <= value <= last]
    if unknown:
        listed = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        report.error(
            f"label maps with values other than 0 to {last} and 255",
            f"{name}: {listed}",
            _mark_values(mark.image, path, unknown),
        )
    elif all(value == IGNORED or value < first for value in pixels):
        report.warning("images without any labelled pixel", name, mark)
    return pixels


def _mark_values(image: Path, path: Path, values: Sequence[int]) -> Mark:
    """The box of the pixels that have one of the values."""
    with Image.open(path) as label:
        rows, columns = np.nonzero(np.isin(np.asarray(label), values))
    return Mark(image, (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
