"""What an exported file says about itself: classes, colours, normalisation, preprocessing.

This module imports no torch, because a program that runs an exported model reads the metadata too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from xcit_dense.errors import UserError
from xcit_dense.structures import Colour

Task = Literal["features", "segmentation", "detection"]
Normalise = Literal["inside", "outside"]

INPUT = "images"
"""The name of the input of each exported model."""

RT_INFO = "xcit_dense"
"""The name of the metadata in the run-time information of an OpenVINO model."""


@dataclass(frozen=True)
class Resize:
    """How an image is resized before the model sees it.

    Attributes:
        scale: Width and height in pixels. With ``keep_ratio``, the larger number bounds the long side, and the smaller
            number bounds the short side.
        keep_ratio: Whether the ratio of the sides stays. Otherwise the image gets exactly the size of ``scale``.

    Example:
        >>> Resize((1333, 800), keep_ratio=True).size(height=480, width=640)
        (800, 1067)
    """

    scale: tuple[int, int]
    keep_ratio: bool

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width of an image after the resize.

        Args:
            height: Rows of the image.
            width: Columns of the image.
        """
        if not self.keep_ratio:
            return self.scale[1], self.scale[0]
        factor = min(max(self.scale) / max(height, width), min(self.scale) / min(height, width))
        return int(height * factor + 0.5), int(width * factor + 0.5)


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported model.

    Attributes:
        task: ``'features'`` for a backbone, ``'segmentation'`` or ``'detection'``.
        outputs: The names of the outputs. A backbone has a map for each stride. A segmentor has ``logits`` (B, C, H, W)
            or ``labels`` (B, H, W). A detector has ``boxes`` (B, N, 4), ``scores`` (B, N), ``labels`` (B, N) and, if it
            finds masks, ``masks`` (B, N, h, w).
        mean: The mean of each channel, red first, for pixel values from 0 to 255.
        std: The standard deviation of each channel.
        normalise: ``'inside'``: the model takes pixel values from 0 to 255. ``'outside'``: the model takes
            (pixels - mean) / std.
        stride: The model's largest stride in pixels.
        classes: The names of the classes.
        palette: A colour for each class.
        resize: How images are resized before the model; None if they are not.
        threshold: The probability from which a pixel belongs to an object (a detector), or to the only class (a
            segmentor with one channel).
        version: The version of xcit_dense that wrote the file.
    """

    task: Task
    outputs: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalise: Normalise
    stride: int
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    resize: Resize | None = None
    threshold: float = 0.5
    version: str = ""

    def to_text(self) -> dict[str, str]:
        """Writes each attribute as JSON.

        Returns:
            The texts by the names of the attributes, and ``input``, the name of the model's input.
        """
        return {"input": json.dumps(INPUT), **{name: json.dumps(value) for name, value in asdict(self).items()}}

    @classmethod
    def from_text(cls, texts: Mapping[str, str], source: str) -> Metadata:
        """Reads what :meth:`to_text` has written.

        Args:
            texts: The texts. Unknown names are ignored, because a file may have further metadata.
            source: The name of the file, for the error.

        Raises:
            UserError: The texts are not from an exported model of this package.
        """
        try:
            values = {field.name: json.loads(texts[field.name]) for field in fields(cls)}
            if values["resize"] is not None:
                values["resize"] = Resize(tuple(values["resize"]["scale"]), values["resize"]["keep_ratio"])
            for name in ("outputs", "mean", "std", "classes"):
                values[name] = tuple(values[name])
            values["palette"] = tuple(_colour(colour) for colour in values["palette"])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{source} does not have the metadata of xcit_dense: {type(error).__name__} {error}; write the file "
                "with xcit-dense export."
            ) from error


def _colour(values: Sequence[Any]) -> Colour:
    red, green, blue = values
    return int(red), int(green), int(blue)
