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
        valid: (H, W): False where the array does not have data. By default the nodata value decides.

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
        valid: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        if array.ndim not in (2, 3):
            raise UserError(f"The array has the shape {array.shape}; give (H, W, N) or (H, W).")
        self._array = array if array.ndim == 3 else array[..., None]
        self._valid = valid
        self.path = Path(path)
        self.height, self.width, self.bands = self._array.shape
        self.dtype = array.dtype
        self.georeference = georeference
        self.nodata = nodata

    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        return self._array[window.slices][..., [band - 1 for band in bands]]

    def _read_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        return super()._read_valid(window) if self._valid is None else self._valid[window.slices].copy()
