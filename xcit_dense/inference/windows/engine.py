"""What prediction by windows asks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from xcit_dense.inference.stream import Named
from xcit_dense.inference.windows.blend import Scores
from xcit_dense.rasters.source import Source
from xcit_dense.structures import Instances

Values = npt.NDArray[Any]
"""The pixels of a window: (h, w, N), the bands of the model in its order, with the values and the type of the file."""


class WindowEngine(Named, Protocol):
    """A model that only predicts, with its preprocessing and its classes. The model never sees the complete image."""

    @property
    def threshold(self) -> float | None:
        """As for :func:`xcit_dense.inference.windows.blend.choose`."""

    @property
    def fill(self) -> Sequence[float]:
        """The value of each band that pixels without data get: the mean of the normalisation."""

    @property
    def drawn(self) -> Sequence[int]:
        """The bands that drawings show, as for :func:`xcit_dense.rasters.preview.preview_labels`."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Texts that change with the weights and the config. A run resumes only if they are the same."""

    def choose_bands(self, source: Source) -> Sequence[int]:
        """Chooses the bands of an image that the model gets.

        Args:
            source: The image.

        Returns:
            The numbers of the bands, from 1, in the order for the model.

        Raises:
            UserError: The image does not have the bands or the type of the model.
        """

    def score(self, windows: Sequence[Values]) -> Sequence[Scores]:
        """Computes the class scores of windows. For segmentors.

        Args:
            windows: Windows of one size.

        Returns:
            For each window (C, h, w), float32.
        """

    def find(self, windows: Sequence[Values]) -> Sequence[Instances]:
        """Finds the objects in windows. For detectors.

        Args:
            windows: Windows of one size.

        Returns:
            For each window its objects with scores, in pixels of the window.
        """
