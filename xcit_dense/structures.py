"""Types that several folders share: detected objects, colours, pixels, and the label value that training ignores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
"""An RGB colour: red, green and blue, each from 0 to 255."""

Pixels = npt.NDArray[np.uint8]
"""An image: (H, W, 3), uint8. Each function documents the channel order, RGB or BGR."""

IGNORED = 255
"""The value in label maps that marks pixels without a label. Training and evaluation ignore these pixels."""


@dataclass(frozen=True)
class Instances:
    """N objects in an image of H x W pixels: detections or ground truth.

    Attributes:
        boxes: (N, 4), float: the corners x1, y1, x2, y2 in pixels.
        labels: (N,), integer: class indices from 0.
        scores: (N,), float in [0, 1]. None for ground truth.
        masks: (N, H, W), bool. None if only boxes are known.

    Example:
        >>> import numpy as np
        >>> boxes = np.array([[0, 0, 10, 10], [5, 5, 20, 30]], np.float32)
        >>> found = Instances(boxes, labels=np.array([0, 2]), scores=np.array([0.9, 0.2]))
        >>> found.keep(0.5).labels
        array([0])
    """

    boxes: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]
    scores: npt.NDArray[np.floating] | None = None
    masks: npt.NDArray[np.bool_] | None = None

    def keep(self, score_thr: float) -> Instances:
        """Selects the objects with a score of at least ``score_thr``.

        Args:
            score_thr: The lowest score to keep, in [0, 1].

        Returns:
            The selected objects, in the same order.

        Raises:
            ValueError: The objects have no scores.
        """
        if self.scores is None:
            raise ValueError("These objects have no scores.")
        kept = self.scores >= score_thr
        masks = None if self.masks is None else self.masks[kept]
        return Instances(self.boxes[kept], self.labels[kept], self.scores[kept], masks)
