"""A model for tests of prediction by windows."""

import dataclasses

import numpy as np

from xcit_dense.errors import UserError
from xcit_dense.structures import Instances


@dataclasses.dataclass
class PixelEngine:
    """A model that looks at single pixels: bright pixels are of class 1, and connected bright pixels are an object."""

    segments: bool = True
    stop_at: int = 10**9
    bad: int = -1
    calls: int = 0
    classes = ("dark", "bright")
    palette = ((0, 0, 0), (255, 255, 255))
    threshold = None
    drawn = ()
    fill = (0.0, 0.0, 0.0)
    fingerprint = {"weights": "1"}  # noqa: RUF012

    def choose_bands(self, source):
        if source.dtype != np.uint8:
            raise UserError("not 8 bits")
        return (1, 2, 3)

    def score(self, windows):
        self._count(windows)
        return [np.stack([1 - one[..., 0] / 255, one[..., 0] / 255]).astype(np.float32) for one in windows]

    def find(self, windows):
        import cv2

        self._count(windows)
        found = []
        for window in windows:
            number, areas, boxes, _ = cv2.connectedComponentsWithStats((window[..., 0] > 127).astype(np.uint8))
            masks = np.array([areas == index for index in range(1, number)], bool).reshape(-1, *areas.shape)
            x, y, width, height = boxes[1:, :4].T
            corners = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
            found.append(Instances(corners, np.ones(number - 1, int), np.full(number - 1, 0.9), masks))
        return found

    def _count(self, windows):
        for window in windows:
            if (window == self.bad).any():
                raise RuntimeError("bad window")
            self.calls += 1
            if self.calls > self.stop_at:
                raise KeyboardInterrupt
