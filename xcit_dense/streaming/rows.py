"""Images that are read by rows of pixels: tensors, and raster files of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.rasters.window import Window

if TYPE_CHECKING:
    from xcit_dense.rasters.source import Source


class Rows(Protocol):
    """An image that is read by rows, of ``height`` x ``width`` pixels."""

    @property
    def height(self) -> int:
        """Number of rows of pixels."""

    @property
    def width(self) -> int:
        """Number of columns of pixels."""

    def read(self, top: int, bottom: int) -> Tensor:
        """Reads normalised pixels of the rows ``top`` to ``bottom - 1``, (1, channels, bottom - top, width)."""


class TensorRows:
    """A tensor as an image that is read by rows.

    Args:
        image: (1, channels, H, W), normalised.

    Raises:
        UserError: The tensor does not have this shape, or has no pixels.

    Example:
        >>> import torch
        >>> from xcit_dense.streaming.rows import TensorRows
        >>> TensorRows(torch.rand(1, 3, 40, 60)).read(8, 16).shape
        torch.Size([1, 3, 8, 60])
    """

    def __init__(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[0] != 1 or 0 in image.shape:
            raise UserError(
                f"image must be one image as a tensor (1, channels, H, W), got the shape {tuple(image.shape)}; write "
                "image[None] for a tensor (channels, H, W)."
            )
        self.image = image
        self.height, self.width = image.shape[2:]

    def read(self, top: int, bottom: int) -> Tensor:
        """Reads rows, (1, channels, bottom - top, width)."""
        return self.image[:, :, top:bottom]


class SourceRows:
    """A raster file as an image that is read by rows. The pixels are normalised: (value - mean) / standard deviation.

    Pixels without data become 0, the value of the mean after the normalisation.

    Args:
        source: An open :class:`xcit_dense.rasters.source.Source`.
        mean: The mean of each band that is read, in the units of the file.
        std: The standard deviation of each band that is read, in the units of the file.
        bands: Numbers of the bands in the order of the model, from 1. By default all bands.

    Raises:
        UserError: There is not one mean and one standard deviation for each band, or a standard deviation is 0.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.rasters.array import ArraySource
        >>> from xcit_dense.streaming.rows import SourceRows
        >>> source = ArraySource(np.full((40, 60, 3), 140, np.uint8))
        >>> SourceRows(source, mean=(100, 100, 100), std=(20, 20, 20)).read(8, 16).unique()
        tensor([2.])
    """

    def __init__(self, source: Source, mean: Sequence[float], std: Sequence[float], bands: Sequence[int] = ()) -> None:
        count = len(bands) or source.bands
        if not len(mean) == len(std) == count or 0 in std:
            raise UserError(
                f"mean={tuple(mean)} and std={tuple(std)} must be one number for each of the {count} bands that are "
                "read, and std must not contain 0; write the numbers that the model was trained with."
            )
        self.source = source
        self.height, self.width = source.height, source.width
        self._bands = tuple(bands)
        self._mean, self._std = (np.asarray(values, dtype=np.float32) for values in (mean, std))

    def read(self, top: int, bottom: int) -> Tensor:
        """Reads rows, (1, number of bands, bottom - top, width)."""
        window = Window(top, 0, bottom - top, self.width)
        pixels = (self.source.read(window, self._bands).astype(np.float32) - self._mean) / self._std  # (rows, W, bands)
        pixels[~self.source.read_valid(window)] = 0
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (rows, W, bands) -> (1, bands, rows, W)


def as_rows(image: Tensor | Rows) -> Rows:
    """Returns an image that is read by rows. A tensor becomes :class:`TensorRows`.

    Args:
        image: A tensor (1, channels, H, W), or an image that is read by rows.
    """
    return TensorRows(image) if isinstance(image, Tensor) else image
