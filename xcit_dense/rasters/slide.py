"""Slides of microscopes (SVS, NDPI, MRXS and others), read through openslide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError
from xcit_dense.rasters.source import RasterError, Source, reason_of
from xcit_dense.rasters.window import Window

_BACKGROUND = "openslide.background-color"


class SlideSource(Source):
    """A slide with the bands red, green and blue. Parts that were not scanned do not have data.

    Args:
        path: The file.

    Raises:
        RasterError: The file is not a readable slide.
        MissingLibraryError: openslide is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import openslide
        except ImportError as error:
            raise MissingLibraryError(
                "Slides are read with openslide, which is not installed; write pip install 'xcit-dense[slides]'."
            ) from error
        try:
            self._slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise RasterError(f"{path} is not a readable slide ({reason_of(error)}); give an intact file.") from error
        self.path = path
        self.width, self.height = self._slide.dimensions
        self.bands, self.colours, self.dtype = 3, 3, np.dtype(np.uint8)
        colour = bytes.fromhex(self._slide.properties.get(_BACKGROUND, "ffffff"))
        self._background = np.frombuffer(colour, np.uint8)

    def read_small(self, longest: int, bands: Sequence[int] = ()) -> npt.NDArray[Any]:
        """Reads the complete slide at a reduced size, from its levels.

        Args:
            longest: As for :meth:`.Source.read_small`.
            bands: As for :meth:`.Source.read_small`.

        Returns:
            As for :meth:`.Source.read_small`.

        Raises:
            RasterError: As for :meth:`.Source.read_small`.
        """
        try:
            small = np.asarray(self._slide.get_thumbnail((longest, longest)))
        except Exception as error:  # as in read
            raise self._unreadable(Window(0, 0, self.height, self.width), error) from error
        return small[..., [band - 1 for band in bands or (1, 2, 3)]]

    def close(self) -> None:
        """Closes the file."""
        self._slide.close()

    def _read(self, window: Window, bands: list[int]) -> npt.NDArray[Any]:
        region = self._region(window)
        pixels = np.where(region[..., 3:] == 0, self._background, region[..., :3])
        return pixels[..., [band - 1 for band in bands]]

    def _read_valid(self, window: Window) -> npt.NDArray[np.bool_]:
        return self._region(window)[..., 3] > 0

    def _region(self, window: Window) -> npt.NDArray[np.uint8]:
        """Reads a window as (h, w, 4): red, green, blue and opacity."""
        return np.asarray(self._slide.read_region((window.column, window.row), 0, (window.width, window.height)))


def open_file(path: Path) -> SlideSource:
    """Opens a slide.

    Args:
        path: The file.

    Returns:
        The opened slide.

    Raises:
        RasterError: The file is not a readable slide.
        MissingLibraryError: openslide is not installed.
    """
    return SlideSource(path)
