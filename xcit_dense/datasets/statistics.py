"""The mean and the standard deviation of the bands of images, measured from the images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError


@dataclass(frozen=True)
class Statistics:
    """What normalises images.

    Attributes:
        mean: The mean of each band, in the units of the images.
        std: The standard deviation of each band.
        images: The number of images that were measured.
    """

    mean: list[float]
    std: list[float]
    images: int


def measure(images: Iterable[npt.NDArray[Any]]) -> Statistics:
    """Measures the bands of images. Each pixel counts once. Only one image is in memory.

    Args:
        images: Images (H, W, N) of any size, all with the same N. Values that are not finite are left out.

    Returns:
        The statistics, rounded to six digits.

    Raises:
        UserError: There are no images, or a band has the same value everywhere.

    Example:
        >>> measure([np.array([[[0, 10], [2, 30]]]), np.array([[[4, 20]]])])
        Statistics(mean=[2.0, 20.0], std=[1.63299, 8.16497], images=2)
    """
    count: Any = 0
    mean: Any = 0.0
    squares: Any = 0.0  # the sum of squared differences from the mean
    number = 0
    for image in images:
        number += 1
        values: npt.NDArray[np.float64] = image.reshape(-1, image.shape[-1]).astype(np.float64)
        finite = np.isfinite(values)
        values = np.where(finite, values, 0)
        more = finite.sum(axis=0)
        its_mean = values.sum(axis=0) / np.maximum(more, 1)
        its_squares = (np.where(finite, values - its_mean, 0) ** 2).sum(axis=0)
        # Chan et al. 1979: the sums of two parts, without the cancellation of E(x^2) - E(x)^2.
        total = np.maximum(count + more, 1)
        difference = its_mean - mean
        squares = squares + its_squares + difference**2 * count * more / total
        mean = mean + difference * more / total
        count = count + more
    if not number:
        raise UserError("--normalize data needs training images, but there are none; check the data set.")
    std = np.sqrt(squares / np.maximum(count, 1))
    for band, deviation in enumerate(std, start=1):
        if not deviation > 0:
            raise UserError(
                f"The channel {band} of {len(std)} has the value {mean[band - 1]:.6g} in all of {number} images, so it "
                "cannot be normalised; name other bands with --bands."
            )
    return Statistics(_rounded(mean), _rounded(std), number)


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
