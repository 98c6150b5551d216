"""Arrays with named axes as sources: what TIFFs of microscopes and Zarr arrays have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.rasters.source import Georeference, RasterError, Source
from xcit_dense.rasters.window import Window


class AxesSource(Source):
    """A pyramid of arrays on the disk, of which windows are read.

    Args:
        path: The file or the directory, for messages.
        levels: The arrays with the same axes, the largest first. Their slices are read from the disk.
        axes: The name of each axis: ``Y`` for rows, ``X`` for columns, and at most one other axis that is longer than
            1, the bands.
        georeference: The place on the Earth.
        nodata: The value of pixels without data.
        close: Closes the file.

    Raises:
        RasterError: The axes do not fit.

    Example:
        >>> array = np.zeros((4, 20, 30), np.uint16)
        >>> AxesSource(Path("cells"), [array], "CYX")
        AxesSource(cells: 20 rows, 30 columns, 4 bands of uint16)
    """

    def __init__(
        self,
        path: Path,
        levels: Sequence[Any],
        axes: str,
        georeference: Georeference | None = None,
        nodata: float | None = None,
        close: Any = None,
    ) -> None:
        array = levels[0]
        others = [axis for axis, size in zip(axes, array.shape) if axis not in "YX" and size > 1]
        if len(axes) != array.ndim or not {"Y", "X"} <= set(axes) or len(others) > 1 or array.dtype.kind not in "buif":
            raise RasterError(
                f"{path} has values of the type {array.dtype} and the shape {tuple(array.shape)} with the axes {axes}; "
                "give an image with rows (Y), columns (X) and bands, of integers or floating-point numbers."
            )
        self.path = path
        self._levels, self._axes, self._close = levels, axes, close
        self._band_axis = others[0] if others else ""
        self.height, self.width = array.shape[axes.index("Y")], array.shape[axes.index("X")]
        self.bands = array.shape[axes.index(self._band_axis)] if others else 1
        self.colours = self.bands
        self.dtype = np.dtype(array.dtype)
        self.georeference = georeference
        self.nodata = nodata

    def read_small(self, longest: int, bands: Sequence[int] = ()) -> npt.NDArray[Any]:
        """Reads the complete image at a reduced size, from the smallest level that has as many pixels.

        Args:
            longest: As for :meth:`.Source.read_small`.
            bands: As for :meth:`.Source.read_small`.

        Returns:
            As for :meth:`.Source.read_small`.

        Raises:
            RasterError: As for :meth:`.Source.read_small`.
        """
        for level in reversed(self._levels[1:]):
            small = AxesSource(self.path, [level], self._axes)
            if max(small.height, small.width) >= longest:
                return small.read_small(longest, bands)
        return super().read_small(longest, bands)

    def close(self) -> None:
        """Closes the file."""
        if self._close is not None:
            self._close()

    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        rows, columns = window.slices
        numbers = [band - 1 for band in bands]
        if not self._band_axis:
            return self._plane(rows, columns, 0)[..., [0] * len(bands)]
        if self._axes.index(self._band_axis) < self._axes.index("X"):
            # Each band has chunks of its own, so only the chunks of the wanted bands are decoded.
            planes = {number: self._plane(rows, columns, slice(number, number + 1)) for number in sorted(set(numbers))}
            return np.concatenate([planes[number] for number in numbers], axis=2)
        return self._plane(rows, columns, slice(None))[..., numbers]

    def _plane(self, rows: slice, columns: slice, bands: int | slice) -> npt.NDArray[Any]:
        """Reads rows and columns of some bands as (h, w, N)."""
        chosen = {"Y": rows, "X": columns, self._band_axis: bands}
        pixels = np.asarray(self._levels[0][tuple(chosen.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in chosen]  # the other axes have one position
        if not self._band_axis:
            kept, pixels = [*kept, ""], pixels[..., None]
        return pixels.transpose([kept.index(axis) for axis in ("Y", "X", self._band_axis)])
