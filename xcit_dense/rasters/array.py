"""An array in memory, or a memory-mapped file, as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.rasters.source import Georeference, Source
from xcit_dense.rasters.window import Window


class ArraySource(Source):
    """An array as a source.

    Args:
        array: (H, W, N) or (H, W), also memory-mapped. The array is not copied.
        georeference: The place on the Earth.
        nodata: The value of pixels without data.
        path: The name in messages.
        has_alpha: Whether the last band is an opacity. Pixels with the opacity 0 do not have data.

    Raises:
        UserError: The array has another number of dimensions.

    Example:
        >>> source = ArraySource(np.arange(12).reshape(3, 4))
        >>> source.read(Window(1, 2, 2, 2))[..., 0].tolist()
        [[6, 7], [10, 11]]
    """

    def __init__(
        self,
        array: npt.NDArray[Any],
        georeference: Georeference | None = None,
        nodata: float | None = None,
        path: str | Path = "array",
        has_alpha: bool = False,
    ) -> None:
        if array.ndim not in (2, 3):
            raise UserError(f"The array has the shape {array.shape}; give (H, W, N) or (H, W).")
        self._array = array if array.ndim == 3 else array[..., None]
        self._has_alpha = has_alpha
        self.path = Path(path)
        self.height, self.width, self.bands = self._array.shape
        self.colours = self.bands - has_alpha
        self.dtype = array.dtype
        self.georeference = georeference
        self.nodata = nodata

    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        return self._array[window.slices][..., [band - 1 for band in bands]]

    def _read_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        valid = super()._read_valid(window)
        return valid & (self._array[window.slices][..., -1] > 0) if self._has_alpha else valid
