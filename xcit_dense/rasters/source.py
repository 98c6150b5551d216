"""The one interface of all readers of large images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.rasters.window import Window, blocks_of

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 2048  # pixels; the height and width of a block of read_small


class RasterError(UserError):
    """A file, or a window of a file, is not readable. Other windows may be readable."""


@dataclass(frozen=True)
class Georeference:
    """The place of an image on the Earth.

    Attributes:
        crs: The coordinate reference system, as WKT. Empty if the file does not name one.
        transform: Six numbers a to f: column and row give ``x = a * column + b * row + c`` and
            ``y = d * column + e * row + f``. (0, 0) is the upper left corner of the first pixel.

    Example:
        >>> place = Georeference("", (0.5, 0, 1000, 0, -0.5, 2000))
        >>> place.to_map(10, 20)
        (1005.0, 1990.0)
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def to_map(self, column: float, row: float) -> tuple[float, float]:
        """Converts a position in pixels to map coordinates.

        Args:
            column: Pixels from the left border.
            row: Pixels from the upper border.

        Returns:
            The coordinates x and y.
        """
        a, b, c, d, e, f = self.transform
        return a * column + b * row + c, d * column + e * row + f


class Source(ABC):
    """An opened image of any size. A context manager; :func:`xcit_dense.rasters.open.open_source` opens files.

    Several processes must not share an opened source: each process opens the file.

    Attributes:
        path: The file or the directory.
        height: The number of rows.
        width: The number of columns.
        bands: The number of bands.
        colours: The number of bands without an alpha band: 1 is a grey image and 3 is a colour image. 0 if the values
            are numbers of a colour table.
        dtype: The type of the values.
        georeference: The place on the Earth. None if the file does not have one.
        nodata: The value of pixels without data. None if the file does not name one.
    """

    path: Path
    height: int
    width: int
    bands: int
    colours: int
    dtype: np.dtype[Any]
    georeference: Georeference | None = None
    nodata: float | None = None

    def read(self, window: Window, bands: Sequence[int] = ()) -> npt.NDArray[Any]:
        """Reads a window.

        Args:
            window: The window, inside the image.
            bands: The numbers of the bands, counted from 1, in the order in which they are returned. By default all.

        Returns:
            (h, w, len(bands)), contiguous, with the values and the type of the file.

        Raises:
            RasterError: The window is not readable or reaches beyond the image, or the image has fewer bands.
        """
        bands = list(bands) or list(range(1, self.bands + 1))
        self._check(window)
        if not 1 <= min(bands) <= max(bands) <= self.bands:
            raise RasterError(
                f"{self.path} has {self.bands} band{'s' * (self.bands != 1)}, but the bands "
                f"{','.join(map(str, bands))} are needed; name bands from 1 to {self.bands}."
            )
        try:
            return np.ascontiguousarray(self._read(window, bands))
        except Exception as error:  # readers of images raise any error for a damaged file
            raise self._unreadable(window, error) from error

    def read_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Reads which pixels of a window have data.

        Args:
            window: The window, inside the image.

        Returns:
            (h, w). False where the file does not have data: where all bands have the nodata value, where alpha is 0,
            and where the file's mask is 0.

        Raises:
            RasterError: The window is not readable, or reaches beyond the image.
        """
        self._check(window)
        try:
            return self._read_valid(window)
        except Exception as error:  # as in read
            raise self._unreadable(window, error) from error

    def read_small(self, longest: int, bands: Sequence[int] = ()) -> npt.NDArray[Any]:
        """Reads the complete image at a reduced size. The memory does not depend on the size of the image.

        Args:
            longest: The number of pixels of the longer side. A smaller image keeps its size.
            bands: As for :meth:`read`.

        Returns:
            (h, w, len(bands)): the nearest pixels, or an overview of the file if there is one.

        Raises:
            RasterError: As for :meth:`read`.
        """
        rows, columns = small_grid(self.height, self.width, longest)
        small = np.zeros((len(rows), len(columns), len(bands) or self.bands), self.dtype)
        for block in blocks_of(self.height, self.width, _BLOCK):
            inside_rows = (rows >= block.row) & (rows < block.row + block.height)
            inside_columns = (columns >= block.column) & (columns < block.column + block.width)
            pixels = self.read(block, bands)
            chosen = pixels[rows[inside_rows] - block.row][:, columns[inside_columns] - block.column]
            small[np.ix_(inside_rows, inside_columns)] = chosen
        return small

    def close(self) -> None:  # noqa: B027 (sources in memory have nothing to close)
        """Closes the file."""

    @abstractmethod
    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        """Reads a window that is inside the image, and bands that exist."""

    def _read_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        """Compares with the nodata value. Readers of files with masks replace this method."""
        if self.nodata is None:
            return np.ones((window.height, window.width), np.bool_)
        return differs_from_nodata(self.read(window), self.nodata)

    def _check(self, window: Window) -> None:
        has_pixels = window.height > 0 and window.width > 0
        inside = window.row >= 0 and window.row + window.height <= self.height
        inside = inside and window.column >= 0 and window.column + window.width <= self.width
        if not (has_pixels and inside):
            raise RasterError(
                f"The window ({window}) is not inside {self.path}, which has {self.height} rows and {self.width} "
                "columns; give a window inside the image."
            )

    def _unreadable(self, window: Window, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return error
        if "imagecodecs" in str(error):
            return MissingLibraryError(f"{self.path} cannot be read: {error}; write pip install 'xcit-dense[large]'.")
        return RasterError(f"{self.path} is not readable in {window} ({reason_of(error)}); give an intact file.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{self.height} rows, {self.width} columns, {self.bands} band{'s' * (self.bands != 1)}"
        return f"{type(self).__name__}({self.path}: {size} of {self.dtype})"


def reason_of(error: Exception) -> str:
    """Returns the reason of another library's error as one clause.

    Args:
        error: The error.
    """
    text = " ".join(str(error.__cause__ or error).split()).rstrip(".")
    return text or type(error).__name__


def differs_from_nodata(pixels: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    """Finds the pixels that have data.

    Args:
        pixels: (H, W, N).
        nodata: The value of pixels without data, also NaN.

    Returns:
        (H, W). False where all bands have the value.

    Example:
        >>> differs_from_nodata(np.array([[[0, 0], [0, 1]]]), 0).tolist()
        [[False, True]]
    """
    same = np.isnan(pixels) if np.isnan(nodata) else pixels == nodata
    return ~same.all(axis=2)


def small_grid(height: int, width: int, longest: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Chooses the rows and columns that stand for an image at a reduced size.

    Args:
        height: The number of rows.
        width: The number of columns.
        longest: The number of pixels of the longer side.

    Returns:
        The rows and the columns, evenly spread. All rows and columns of an image that is not larger.

    Example:
        >>> [list(map(int, numbers)) for numbers in small_grid(8, 4, longest=4)]
        [[1, 3, 5, 7], [1, 3]]
    """
    scale = min(1.0, longest / max(height, width))
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    rows, columns = ((np.arange(n) * 2 + 1) * full // (2 * n) for n, full in zip(small, (height, width)))
    return rows, columns
