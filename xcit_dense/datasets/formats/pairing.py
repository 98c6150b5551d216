"""Finds for each image the label image that belongs to it, by the names of the files."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from xcit_dense.datasets.formats.splits import IMAGE_SUFFIXES, SAMPLE_NAMES

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
"""The suffixes of label images: formats without loss."""

# What programs write before and behind the name that an image and its label image share.
_HEADS = ("", "img_", "image_", "sat_")
_LABEL_HEADS = ("", "mask_", "label_", "seg_", "gt_")
_TAILS = ("", "_leftImg8bit", "_image", "_img", "_sat", "_rgb", "_im")
# In a directory of images and label images, these ends mark the label images.
_LABEL_TAIL = re.compile(
    r"[_\-. ](masks?|labels?|seg|segmentation|gt|annotation|label_?ids?|gtFine_label(Ids|TrainIds)|L)$", re.IGNORECASE
)
# Drawings of the labels, and other annotations, that lie next to the label images.
_OTHER_TAIL = re.compile(r"colou?r|instance|vis|viz|overlay|polygon|panoptic", re.IGNORECASE)


@dataclass(frozen=True)
class Naming:
    """How the names of images and of their label images differ. The rest of the names is the same.

    Attributes:
        head: The beginning of each image's name.
        tail: The end of each image's name, in front of the suffix.
        label_head: The beginning of each label image's name.
        label_tail: The end of each label image's name, in front of the suffix.
        keeps_suffix: Whether the names of label images contain the images' suffixes, as in ``a.jpg.png``.
    """

    head: str = ""
    tail: str = ""
    label_head: str = ""
    label_tail: str = ""
    keeps_suffix: bool = False

    def core(self, image: str) -> str | None:
        """Returns the part of an image's path that its label image shares. None if the image has another name."""
        path = PurePosixPath(image)
        name = path.name if self.keeps_suffix else path.stem
        if not (name.startswith(self.head) and name.endswith(self.tail)):
            return None
        name = name[len(self.head) : len(name) - len(self.tail)]
        return str(path.with_name(name)) if name else None

    def label(self, image: str) -> str | None:
        """Returns the path of an image's label image without its suffix. None if the image has another name."""
        core = self.core(image)
        if core is None:
            return None
        path = PurePosixPath(core)
        return str(path.with_name(f"{self.label_head}{path.name}{self.label_tail}"))


def find_naming(images: Sequence[str], labels: Sequence[str]) -> Naming | None:
    """Finds how the names of images and label images differ.

    Args:
        images: The paths of the images in their directory.
        labels: The paths of the label images in their directory.

    Returns:
        The naming that gives the most images a label image. None if no label image has the name of an image.

    Example:
        >>> find_naming(["a_leftImg8bit.png"], ["a_gtFine_color.png", "a_gtFine_labelIds.png"]).label_tail
        '_gtFine_labelIds'
    """
    stems = sorted(stem_of(label) for label in labels)
    found: Counter[Naming] = Counter()
    sample = images[:: max(1, len(images) // SAMPLE_NAMES)]
    for naming in _possible_namings():
        cores = [core for image in sample if (core := naming.core(image)) is not None]
        for core in cores:
            path = PurePosixPath(core)
            start = str(path.with_name(naming.label_head + path.name))
            for place in range(bisect_left(stems, start), len(stems)):
                if not stems[place].startswith(start):
                    break
                end = stems[place][len(start) :]
                if "/" not in end:
                    found[Naming(naming.head, naming.tail, naming.label_head, end, naming.keeps_suffix)] += 1
    return max(found, key=lambda naming: _rank(naming, found[naming]), default=None)


def match(images: Sequence[str], labels: Sequence[str], naming: Naming) -> list[tuple[str, str | None]]:
    """Finds the label image of each image.

    Args:
        images: The paths of the images in their directory.
        labels: The paths of the label images in their directory.
        naming: How their names differ.

    Returns:
        Each image with its label image. None stands for a label image that does not exist.
    """
    # Of several label images with one stem, the first of LABEL_SUFFIXES is taken.
    ordered = sorted(labels, key=lambda label: LABEL_SUFFIXES.index(PurePosixPath(label).suffix.lower()), reverse=True)
    by_stem = {stem_of(label): label for label in ordered}
    return [(image, by_stem.get(naming.label(image) or "")) for image in images]


def split_directory(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates the images and the label images of one directory. The ends of the names differ.

    Args:
        files: The paths of all images in the directory.

    Returns:
        The images, and the label images. Both are empty if no label image has the name of an image.

    Example:
        >>> split_directory(["a.jpg", "a_mask.png", "b.jpg", "b_mask.png"])
        (['a.jpg', 'b.jpg'], ['a_mask.png', 'b_mask.png'])
    """
    stems = {stem_of(file) for file in files}
    tails: Counter[str] = Counter()
    for stem in stems:
        end = _label_end(stem)
        if end and any(stem.removesuffix(end) + tail in stems for tail in _TAILS):
            tails[end] += 1
    if not tails:
        return [], []
    tail = max(tails, key=lambda end: (tails[end], -len(end), end))
    is_label = {file: stem_of(file).endswith(tail) for file in files}
    others = {end for stem in stems if (end := _label_end(stem))}
    images = [file for file in files if not is_label[file] and not stem_of(file).endswith(tuple(others))]
    labels = [file for file in files if is_label[file] and file.lower().endswith(LABEL_SUFFIXES)]
    return images, labels


def stem_of(path: str) -> str:
    """Returns a path without the suffix."""
    return str(PurePosixPath(path).with_suffix("")) if path.lower().endswith(_SUFFIXES) else path


_SUFFIXES = (*IMAGE_SUFFIXES, *LABEL_SUFFIXES)


def _label_end(stem: str) -> str | None:
    """The end that marks a label image."""
    found = _LABEL_TAIL.search(stem)
    return found[0] if found else None


def _possible_namings() -> Iterator[Naming]:
    yield Naming(keeps_suffix=True)
    for label_head in _LABEL_HEADS:
        for head in _HEADS:
            for tail in _TAILS:
                yield Naming(head, tail, label_head)


def _rank(naming: Naming, count: int) -> tuple[int, bool, bool, int, str]:
    """The rank of a naming: more images, then label images rather than drawings, then shorter names."""
    is_drawing = bool(_OTHER_TAIL.search(naming.label_tail))
    decorations = len(naming.head + naming.tail + naming.label_head + naming.label_tail)
    is_train_id = "trainids" in naming.label_tail.lower()
    return count, not is_drawing, is_train_id, -decorations - naming.keeps_suffix, naming.label_tail
