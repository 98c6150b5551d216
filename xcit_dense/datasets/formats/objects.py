"""Images with objects, in COCO's structure: what the readers of all formats with boxes and polygons return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Content = dict[str, list[Any]]
"""The content of a COCO file: the lists ``images``, ``annotations`` and ``categories``."""


@dataclass(frozen=True)
class ObjectData:
    """A data set whose images have objects: boxes, with or without masks.

    Attributes:
        format: The name of the format, for messages.
        root: The directory that the ``file_name`` of each image is relative to.
        splits: Reads the content of a split, by ``'train'``, ``'val'`` and ``'test'``. A split may be missing. All
            splits have the same categories.
        notes: Sentences that the user needs to know, such as which files were passed over.
    """

    format: str
    root: Path
    splits: Mapping[str, Callable[[], Content]]
    notes: tuple[str, ...] = ()
