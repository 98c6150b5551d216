"""Images with a class for each pixel: what the readers of all formats with label images return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xcit_dense.datasets.formats.colours import Table
from xcit_dense.datasets.formats.splits import Layout
from xcit_dense.structures import Colour


@dataclass(frozen=True)
class Pair:
    """An image and the source of its labels. The paths are relative to the data directory.

    Attributes:
        image: The image file.
        label: The label image, or the annotation file that contains the image's labels.
    """

    image: str
    label: str


ReadLabel = Callable[[Pair], npt.NDArray[np.uint8]]
"""Reads the label map of a pair: (H, W), one value a pixel."""


@dataclass(frozen=True)
class LabelData:
    """A data set whose images have a class for each pixel.

    Attributes:
        format: The name of the format, for messages.
        root: The directory that all paths are relative to.
        splits: The pairs of each split, by ``'train'``, ``'val'`` and ``'test'``. A split may be missing.
        classes: The names of the classes in the order of their values. None if nothing names the classes.
        palette: The colours of the classes. None if nothing gives colours.
        ignore_zero: Whether 0 marks pixels without a label, so that the first class has the value 1.
        table: The class of each colour or value in the label images. None if the values number the classes, or if
            nothing says what they mean. :func:`xcit_dense.datasets.formats.meaning.interpret` uses the table.
        read_label: Reads the label map of a pair: (H, W), uint8, one value a pixel. None if the label images contain
            the values, so that MMSegmentation reads them unchanged.
        sources: The files that the label maps depend on, besides the label images.
        layout: The directories and suffixes by which MMSegmentation finds the same pairs itself. None if
            MMSegmentation would find other pairs.
        notes: Sentences that the user needs to know, such as which files were passed over.
    """

    format: str
    root: Path
    splits: Mapping[str, Sequence[Pair]]
    classes: tuple[str, ...] | None = None
    palette: tuple[Colour, ...] | None = None
    ignore_zero: bool = False
    table: Table | None = None
    read_label: ReadLabel | None = None
    sources: Sequence[Path] = ()
    layout: Layout | None = None
    notes: tuple[str, ...] = ()
