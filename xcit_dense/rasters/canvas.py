"""Results on the disk that windows are written into: label maps, and scores of classes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from xcit_dense.errors import UserError
from xcit_dense.rasters.window import Window

if TYPE_CHECKING:
    from typing_extensions import Self

_AT_ONCE = 1 << 25  # bytes that are filled at once


class Canvas:
    """An array on the disk, a ``.npy`` file. Several processes may write different windows of one canvas.

    Windows are written with calls of the operating system, and not through the memory map: a full disk is then an error
    with a sentence, and does not end the process.

    Attributes:
        path: The file.
        array: (H, W) or (H, W, C): the content, memory-mapped and read-only. New windows are visible.

    Example:
        >>> canvas = Canvas.create("labels.npy", 4, 6, np.uint8, fill=255)
        >>> canvas.write(Window(1, 2, 2, 2), np.array([[1, 2], [3, 4]]))
        >>> canvas.array[1].tolist()
        [255, 255, 1, 2, 255, 255]
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.array: npt.NDArray[Any] = open_memmap(self.path, mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a readable .npy file ({error}); start again with another --out.") from error
        self._start = self.array.offset
        self._file = os.open(self.path, os.O_RDWR)

    @classmethod
    def create(
        cls, path: str | Path, height: int, width: int, dtype: npt.DTypeLike, fill: float, bands: int | None = None
    ) -> Self:
        """Makes a canvas.

        Args:
            path: The file, ``.npy``. Its directory is created.
            height: The number of rows.
            width: The number of columns.
            dtype: The type of the values.
            fill: The value of pixels that no window has written yet.
            bands: The number of values of each pixel. None makes an array (H, W).

        Returns:
            The canvas.

        Raises:
            UserError: The disk does not have enough space, or the file cannot be written.
        """
        path = Path(path)
        shape = (height, width) if bands is None else (height, width, bands)
        needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_space(path.parent, needed)
            open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            canvas = cls(path)
            if fill != 0:  # a new file consists of zeros
                canvas._fill(fill)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return canvas

    @classmethod
    def reopen(cls, path: str | Path, height: int, width: int, dtype: npt.DTypeLike, bands: int | None = None) -> Self:
        """Opens a canvas that exists, for example of a run that was interrupted.

        Args:
            path: The file.
            height: As for :meth:`create`.
            width: As for :meth:`create`.
            dtype: As for :meth:`create`.
            bands: As for :meth:`create`.

        Returns:
            The canvas, with its content.

        Raises:
            UserError: The file is missing or not readable, or has another shape or type.
        """
        canvas = cls(path)
        shape = (height, width) if bands is None else (height, width, bands)
        if canvas.array.shape != shape or canvas.array.dtype != np.dtype(dtype):
            canvas.close()
            raise UserError(
                f"{path} has the shape {canvas.array.shape} of {canvas.array.dtype}, but the shape {shape} of "
                f"{np.dtype(dtype)} is needed; start again with another --out."
            )
        return canvas

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Writes a window.

        Args:
            window: The window, inside the canvas.
            values: (h, w) or (h, w, C). The values are converted to the type of the canvas.

        Raises:
            UserError: The window and the values do not fit, or the file cannot be written.
        """
        target = self.array[window.slices]
        if target.shape != values.shape or target.shape[:2] != (window.height, window.width):
            raise UserError(
                f"Values of the shape {values.shape} do not fit the window ({window}) of a canvas of the shape "
                f"{self.array.shape}; give one value for each pixel of the window."
            )
        rows = np.ascontiguousarray(values, self.array.dtype)
        for number, row in enumerate(rows, start=window.row):
            place = number * self.array.strides[0] + window.column * self.array.strides[1]
            self._write(place, row.tobytes())

    def close(self) -> None:
        """Closes the file. ``array`` stays readable."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _fill(self, value: float) -> None:
        content = np.full(_AT_ONCE // self.array.dtype.itemsize, value, self.array.dtype).tobytes()
        for place in range(0, self.array.nbytes, len(content)):
            self._write(place, content[: self.array.nbytes - place])

    def _write(self, place: int, content: bytes) -> None:
        """Writes bytes at a place of the array."""
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._file, content[written:], self._start + place + written)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_space(directory: Path, needed: int) -> None:
    """Checks that a disk has enough space.

    Args:
        directory: A directory on the disk.
        needed: The number of bytes.

    Raises:
        UserError: The disk has less space. The message states both numbers.
    """
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(
            f"{directory} needs {needed:,} bytes on the disk, but {free:,} bytes are free; free some space, or name "
            "another directory."
        )


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror or error}; free some space, or name another path.")
