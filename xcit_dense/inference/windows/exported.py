"""Exported models that predict windows. This module needs no MM library, and does not import torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.inference.exported import ExportedModel
from xcit_dense.inference.windows.blend import Scores
from xcit_dense.inference.windows.engine import Values
from xcit_dense.inference.windows.plan import scaled_size
from xcit_dense.rasters.source import Source
from xcit_dense.rasters.values import choose_rgb
from xcit_dense.structures import Colour, Instances


class ExportedWindowEngine:
    """An exported model that predicts windows: an :class:`xcit_dense.inference.windows.engine.WindowEngine`.

    The resizing of the metadata is left out, because windows have the size that the user chose.

    Args:
        model: The model.
        scale: The size of what the model sees over the size of the window.

    Attributes:
        model: The model.
        scale: The size of what the model sees over the size of the window.
        drawn: Empty, because the model takes ordinary images.

    Raises:
        UserError: The model is a segmentor that returns labels.
    """

    def __init__(self, model: ExportedModel, scale: float = 1.0) -> None:
        if model.segments and "logits" not in model.metadata.outputs:
            raise UserError(
                f"{model.path} returns labels, and windows are blended by the scores of the classes; export the model "
                "again without --output labels."
            )
        self.model = model
        self.scale = scale
        self.drawn: Sequence[int] = ()

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        return self.model.classes

    @property
    def palette(self) -> Sequence[Colour]:
        """The colours of the classes."""
        return self.model.palette

    @property
    def segments(self) -> bool:
        """Whether the model is a segmentor."""
        return self.model.segments

    @cached_property
    def threshold(self) -> float | None:
        """As for :func:`xcit_dense.inference.windows.blend.choose`."""
        side = 2 * self.model.metadata.stride
        # The metadata does not have the number of logits, so a small image counts them.
        (logits,) = self.model.compute_logits(np.zeros((1, 3, side, side), np.float32), (side, side))
        return self.model.metadata.threshold if len(logits) == 1 else None

    @property
    def fill(self) -> Sequence[float]:
        """The mean of red, green and blue."""
        return self.model.metadata.mean

    @cached_property
    def fingerprint(self) -> Mapping[str, str]:
        """The hash of the file, and the scale."""
        content = hashlib.sha256(self.model.path.read_bytes())
        weights = self.model.path.with_suffix(".bin")  # of a model of OpenVINO
        if self.model.path.suffix == ".xml":
            content.update(weights.read_bytes())
        return {"model": content.hexdigest()[:16], "--scale": str(self.scale)}

    def choose_bands(self, source: Source) -> Sequence[int]:
        """Chooses the bands of an image that the model gets.

        Args:
            source: The image.

        Raises:
            UserError: The image is neither grey nor RGB of 8 bits.
        """
        return choose_rgb(source, "convert the image, or predict with the checkpoint and --bands")

    def score(self, windows: Sequence[Values]) -> Sequence[Scores]:
        """Computes the class scores of windows.

        Args:
            windows: Windows of one size, each (h, w, 3).
        """
        size = windows[0].shape[0], windows[0].shape[1]
        return [_probabilities(logits) for logits in self.model.compute_logits(self._prepare(windows), size)]

    def find(self, windows: Sequence[Values]) -> Sequence[Instances]:
        """Finds the objects in windows.

        Args:
            windows: Windows of one size, each (h, w, 3).
        """
        results = self.model.compute(self._prepare(windows), [window.shape[:2] for window in windows])
        return [result for result in results if isinstance(result, Instances)]

    def _prepare(self, windows: Sequence[Values]) -> npt.NDArray[np.float32]:
        """Makes the model's input (B, 3, h', w') of windows (h, w, 3)."""
        height, width = scaled_size(windows[0].shape[0], windows[0].shape[1], self.scale)
        resized = [cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR) for window in windows]
        return np.stack([self.model.prepare(np.asarray(window, np.uint8)) for window in resized])


def _probabilities(logits: npt.NDArray[np.float32]) -> Scores:
    """The class probabilities (C, h, w) of logits. One logit gives the probabilities of two classes."""
    if len(logits) == 1:
        # The sigmoid of x is the softmax of 0 and x.
        logits = np.concatenate([np.zeros_like(logits), logits])
    scores = np.exp(logits - logits.max(axis=0))
    scores /= scores.sum(axis=0)
    return scores
