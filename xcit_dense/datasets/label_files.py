"""Writes label maps as PNG files, and lists of pairs as JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from xcit_dense.datasets.formats.labels import LabelData, Pair
from xcit_dense.errors import UserError
from xcit_dense.media.images import UNREADABLE
from xcit_dense.structures import Colour, Pixels
from xcit_dense.utils.progress import tracked

_NAMES = 20  # a line has this many classes at most


def write_label_maps(data: LabelData, directory: Path) -> dict[str, list[Pair]]:
    """Writes the label map of each pair as a PNG file with one value a pixel.

    Args:
        data: A data set with ``read_label``. A label image that does not exist is not written: the check reports it.
        directory: Where the files are written, with the names of the label images.

    Returns:
        The pairs of each split. Their labels are relative to ``directory``.

    Raises:
        UserError: A label image is damaged, or contains an unknown colour or value.
    """
    if data.read_label is None:
        raise ValueError("The label images of this data contain the values already.")
    pairs = {split: [Pair(pair.image, _png_of(pair)) for pair in old] for split, old in data.splits.items()}
    jobs = [job for split, old in data.splits.items() for job in zip(old, pairs[split])]
    for source, target in tracked("label maps written", jobs):
        path = directory / target.label
        if path.exists() or not (data.root / source.label).is_file():
            continue
        try:
            label = data.read_label(source)
        except UserError:
            raise
        except UNREADABLE as error:
            raise UserError(
                f"The label image {data.root / source.label} cannot be read ({error}); replace it."
            ) from error
        write_label_map(path, label, data.palette)
    return pairs


def write_label_map(path: Path, label: Pixels, palette: Sequence[Colour] | None = None) -> None:
    """Writes a label map.

    Args:
        path: The PNG file. Its directory is created.
        label: (H, W): one value a pixel.
        palette: The colours in which image viewers show the values. They do not change the values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label)
    if palette:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(palette)] = palette
        colours[255] = 255
        image.putpalette(colours.tobytes())
    image.save(path)


def write_pairs(splits: Mapping[str, Sequence[Pair]], directory: Path) -> None:
    """Writes the pairs of each split as ``SPLIT.json``.

    Args:
        splits: The pairs.
        directory: An existing directory.
    """
    for split, pairs in splits.items():
        content = [{"image": pair.image, "label": pair.label} for pair in pairs]
        (directory / f"{split}.json").write_text(json.dumps(content, indent=0), "utf-8")


def read_pairs(path: Path) -> list[Pair]:
    """Reads a file of :func:`write_pairs`.

    Args:
        path: The JSON file: a list of entries like ``{"image": "images/a.jpg", "label": "masks/a.png"}``.

    Returns:
        The pairs.

    Raises:
        UserError: The file does not exist, or has another content.

    Example:
        >>> write_pairs({"train": [Pair("a.jpg", "a.png")]}, Path("."))
        >>> read_pairs(Path("train.json"))
        [Pair(image='a.jpg', label='a.png')]
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        return [Pair(str(entry["image"]), str(entry["label"])) for entry in content]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not a list of pairs ({error}); write entries like "
            '{"image": "images/a.jpg", "label": "masks/a.png"}.'
        ) from error


def describe(data: LabelData, pixels: Mapping[str, Mapping[int, int]] | None = None) -> list[str]:
    """Describes a data set: its format, its counts and its notes.

    Args:
        data: The data set, with classes.
        pixels: The number of pixels by value, for each split. None leaves out the shares of the classes.

    Returns:
        Sentences to print.
    """
    lines = [f"{data.format[0].upper()}{data.format[1:]}, in {data.root}:"]
    for split, pairs in data.splits.items():
        shares = _describe_shares(data.classes or (), pixels[split]) if pixels else ""
        lines.append(f"  {split}: {len(pairs):,} images{shares}")
    return [*lines, *(f"  note: {note}" for note in data.notes)]


def _describe_shares(classes: Sequence[str], pixels: Mapping[int, int]) -> str:
    """Words for the shares of the classes in the labelled pixels."""
    total = sum(pixels.get(value, 0) for value in range(len(classes))) or 1
    shares = [f"{name} {pixels.get(value, 0) / total:.1%}" for value, name in enumerate(classes[:_NAMES])]
    more = f" and {len(classes) - _NAMES} more" if len(classes) > _NAMES else ""
    return f", {len(classes)} classes ({', '.join(shares)}{more})"


def _png_of(pair: Pair) -> str:
    """The name of a pair's written label map."""
    if pair.label == pair.image:  # objects are painted from an annotation file
        return f"{pair.image}.png"
    return str(PurePosixPath(pair.label).with_suffix(".png"))
