"""What detectors find, as arrays, and what labels and colours mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Instances:
    """N objects in a picture of H x W pixels.

    Attributes:
        boxes: (N, 4), corners x1, y1, x2, y2 in pixels.
        labels: (N,), classes by their index.
        scores: (N,), in [0, 1]; none for ground truth.
        masks: (N, H, W), bool; none where only boxes are known.
    """

    boxes: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating] | None = None
    masks: npt.NDArray[np.bool_] | None = None

    def keep(self, score_thr: float) -> Instances:
        """Those of a score or more.

        Args:
            score_thr: The least score.

        Raises:
            ValueError: There are no scores.
        """
        if self.scores is None:
            raise ValueError("These objects have no scores.")
        sure = self.scores >= score_thr
        masks = None if self.masks is None else self.masks[sure]
        return Instances(self.boxes[sure], self.labels[sure], self.scores[sure], masks)


IGNORED = 255
"""The value of label pictures that marks pixels without a label."""
