"""Training chips: small images and label maps, cut out of a large image and its label map or polygons."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import UserError
from xcit_dense.rasters.labels import read_names
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.polygons import SUFFIXES, PolygonSource
from xcit_dense.rasters.source import RasterError, Source
from xcit_dense.rasters.window import Window, blocks_of
from xcit_dense.structures import IGNORED
from xcit_dense.utils.files import atomic_write
from xcit_dense.utils.progress import tracked

_BLOCK = 4  # chips; the height and width of the blocks that are for training or for validation


@dataclass(frozen=True)
class ChipCounts:
    """What :func:`cut_chips` has written and skipped.

    Attributes:
        train: The number of chips for training.
        val: The number of chips for validation.
        no_data: The number of windows without data, which are skipped.
        no_labels: The number of windows without labels, which are skipped.
        notes: Sentences about polygons that are left out.
    """

    train: int
    val: int
    no_data: int
    no_labels: int
    notes: Sequence[str] = ()


def cut_chips(
    image: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    size: int = 512,
    overlap: int = 0,
    val_share: float = 0.2,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    class_property: str | None = None,
    background: bool = True,
) -> ChipCounts:
    """Cuts chips for the training of a segmentor out of a large image.

    The image is divided into blocks of 4 x 4 chips, and each block is for training or for validation. Chips overlap
    only inside a block, so no pixel is in both splits. Where the image ends, the last chips of a block are moved
    inward, so that they are inside the image.

    Pixels without data get the label 255, which training ignores. Images of one or three bands of uint8 become PNGs,
    and other images become TIFFs with all bands.

    Args:
        image: The image, as for :func:`xcit_dense.rasters.open.open_source`.
        labels: The label map, with the size of the image. Its band contains class indices, 255 without a label. Or a
            GeoJSON file with polygons (:class:`xcit_dense.rasters.polygons.PolygonSource`).
        out: The directory to make: ``images/train``, ``labels/train``, ``images/val``, ``labels/val``, ``classes.txt``.
        size: The height and width of a chip.
        overlap: The pixels that neighbouring chips share.
        val_share: The share of the blocks for validation, from 0 up to 1.
        seed: Another seed chooses other blocks.
        classes: The names of the classes. By default those that :func:`xcit_dense.rasters.labels.write_label_map` has
            written into the label map, or those of the polygons. Without names, the values are the names.
        class_property: The property of polygons that names the class. The default is ``class``.
        background: Whether pixels outside of all polygons are of the class ``background``. Otherwise they do not have a
            label.

    Returns:
        The counts.

    Raises:
        UserError: A number is out of range, ``out`` is not empty, the sizes of image and labels differ, a label is not
            a class, polygons do not fit the image, an option of polygons is given for a label map, or a window is not
            readable.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example:
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("town.png"), np.zeros((300, 200, 3), np.uint8))
        >>> write_image(Path("town_labels.png"), np.zeros((300, 200), np.uint8))
        >>> cut_chips("town.png", "town_labels.png", "chips", size=100, val_share=0)
        ChipCounts(train=6, val=0, no_data=0, no_labels=0, notes=())
    """
    out = Path(out)
    _check_numbers(size, overlap, val_share)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; remove it, or name another directory.")
    with ExitStack() as stack:
        source = stack.enter_context(open_source(image))
        label_map: Source
        notes: Sequence[str] = ()
        if Path(labels).suffix.lower() in SUFFIXES:
            name = class_property or "class"
            polygons = PolygonSource(labels, source, class_property=name, classes=classes, background=background)
            label_map, names, notes = polygons, polygons.classes, polygons.notes
        else:
            _refuse_options_of_polygons(labels, class_property, background)
            label_map = stack.enter_context(open_source(labels))
            names = list(classes) if classes is not None else read_names(labels)
        _check_sources(source, label_map, size)
        blocks = _blocks(source, size, overlap)
        # At least one block is for training, and at least one for validation unless the share is 0.
        count = min(max(round(val_share * len(blocks)), 1), len(blocks) - 1) if val_share else 0
        if val_share and len(blocks) == 1:
            raise UserError(
                f"{image} has {source.height} x {source.width} pixels, which are one block of chips, so it cannot be "
                "divided into training and validation; write a smaller --size, or --val-share 0."
            )
        held_out = set(np.random.default_rng(seed).permutation(len(blocks))[:count].tolist())
        counts = dict.fromkeys(("train", "val", "no_data", "no_labels"), 0)
        chips = [(index, chip) for index, block in enumerate(blocks) for chip in _chips(block, size, overlap)]
        for index, chip in tracked("chips", chips):
            split = "val" if index in held_out else "train"
            counts[_write_chip(out, split, chip, source, label_map, names)] += 1
    if not counts["train"]:
        raise UserError(
            f"No chip for training has data and labels ({counts['no_data']} windows without data, "
            f"{counts['no_labels']} without labels); check the labels, or write another --seed."
        )
    if names:
        with atomic_write(out / "classes.txt") as part:
            part.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return ChipCounts(**counts, notes=notes)


def _check_numbers(size: int, overlap: int, val_share: float) -> None:
    if size < 1:
        raise UserError(f"size is {size}; write 1 or more.")
    if not 0 <= overlap < size:
        raise UserError(f"overlap is {overlap}; write a number from 0 to {size - 1}, less than the size of a chip.")
    if not 0 <= val_share < 1:
        raise UserError(f"val_share is {val_share:g}; write a number from 0 up to 1, for example 0.2.")


def _refuse_options_of_polygons(labels: str | Path, class_property: str | None, background: bool) -> None:
    for option, given in (("--class-property", class_property is not None), ("--no-background", not background)):
        if given:
            raise UserError(f"{labels} is a label map, and {option} is for polygons; leave it out.")


def _check_sources(source: Source, labels: Source, size: int) -> None:
    if (source.height, source.width) != (labels.height, labels.width):
        raise UserError(
            f"{source.path} has {source.height} rows and {source.width} columns, but {labels.path} has "
            f"{labels.height} and {labels.width}; give a label map of the image's size."
        )
    if source.georeference and labels.georeference and not _same_place(source, labels):
        raise UserError(f"{source.path} and {labels.path} are different places of the map; give the image's label map.")
    if labels.bands != 1 or labels.dtype.kind not in "bui":
        raise UserError(
            f"{labels.path} has {labels.bands} bands of {labels.dtype}; give a label map with one band of integers."
        )
    if size > min(source.height, source.width):
        raise UserError(
            f"{source.path} has {source.height} rows and {source.width} columns, but chips have {size} pixels a side; "
            f"write --size {min(source.height, source.width)} or less."
        )


def _same_place(source: Source, labels: Source) -> bool:
    """Whether two corners of the images are less than half a pixel apart."""
    one, other = source.georeference, labels.georeference
    assert one is not None
    assert other is not None
    pixel = np.hypot(one.transform[0], one.transform[3])
    corners = ((0, 0), (source.width, source.height))
    return all(np.hypot(*np.subtract(one.to_map(*at), other.to_map(*at))) < pixel / 2 for at in corners)


def _blocks(source: Source, size: int, overlap: int) -> list[Window]:
    """Divides an image into blocks. A remainder that is smaller than a chip is a part of the last block."""
    step = size + (_BLOCK - 1) * (size - overlap)  # the pixels of a row of chips
    edges = []
    for length in (source.height, source.width):
        starts = list(range(0, length, step))
        if length - starts[-1] < size and len(starts) > 1:
            starts.pop()
        edges.append([*starts, length])
    rows, columns = (list(pairwise(starts)) for starts in edges)
    return [Window(top, left, bottom - top, right - left) for top, bottom in rows for left, right in columns]


def _chips(block: Window, size: int, overlap: int) -> list[Window]:
    """Divides a block into chips. The last chips of rows and columns are moved inward."""
    starts = []
    for first, length in ((block.row, block.height), (block.column, block.width)):
        inner = blocks_of(1, max(length - overlap, 1), size - overlap)
        starts.append(sorted({first + min(part.column, length - size) for part in inner}))
    return [Window(row, column, size, size) for row in starts[0] for column in starts[1]]


def _write_chip(out: Path, split: str, chip: Window, source: Source, labels: Source, names: Sequence[str]) -> str:
    """Writes a chip. Returns the name of the count that grows."""
    valid = source.read_valid(chip)
    if not valid.any():
        return "no_data"
    values = labels.read(chip)[..., 0]
    has_label = valid & labels.read_valid(chip) & (values != IGNORED)
    if not has_label.any():
        return "no_labels"
    most = min(len(names) or IGNORED, IGNORED)
    worst = int(values[has_label].max())
    if worst >= most or int(values[has_label].min()) < 0:
        raise UserError(
            f"{labels.path} has the value {worst} in {chip}, but there are {most} classes; name all classes with "
            "--classes."
        )
    name = f"{source.path.stem}_{chip.row:06d}_{chip.column:06d}"
    pixels = source.read(chip)
    if pixels.dtype.kind == "f":
        pixels = np.where(valid[..., None], pixels, 0)  # training refuses values that are not finite
    _write_image(out / "images" / split / name, pixels, source)
    label_image = np.where(has_label, values, IGNORED).astype(np.uint8)
    with atomic_write(out / "labels" / split / f"{name}.png") as part:
        Image.fromarray(label_image).save(part, "PNG")
    return split


def _write_image(stem: Path, pixels: npt.NDArray[Any], source: Source) -> None:
    if source.dtype == np.uint8 and source.colours in (1, 3):
        colours = pixels[..., : source.colours]
        with atomic_write(stem.with_name(stem.name + ".png")) as part:
            Image.fromarray(colours if source.colours == 3 else colours[..., 0]).save(part, "PNG")
        return
    from tifffile import imwrite

    if pixels.dtype.itemsize > 4:
        raise RasterError(f"{source.path} has values of the type {source.dtype}; convert it to 8, 16 or 32 bits.")
    with atomic_write(stem.with_name(stem.name + ".tif")) as part:
        imwrite(part, pixels, photometric="minisblack", planarconfig="contig")
