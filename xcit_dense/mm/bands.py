"""Images with any number of bands in MMDetection and MMSegmentation: a loader and a preprocessor.

:func:`xcit_dense.mm.config.bands.use_bands` puts these types into a config.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn

from xcit_dense.errors import UserError
from xcit_dense.media.bands import read_bands
from xcit_dense.structures import Pixels
from xcit_dense.visualization.bands import stretch


@TRANSFORMS.register_module(force=True)
class LoadBands(BaseTransform):
    """Loads bands of an image file, in place of mmcv's ``LoadImageFromFile``.

    Args:
        bands: The numbers of the bands, counted from 1, in the order in which the model gets them.
        drawn: The three bands that drawings show as red, green and blue, or a single band for grey drawings. All are
            among ``bands``. By default the first three of ``bands``, or the first if there are fewer.

    Raises:
        UserError: ``bands`` are not numbers from 1, or ``drawn`` does not fit ``bands``.

    Example:
        >>> from pathlib import Path
        >>> from xcit_dense.media.images import write_image
        >>> write_image(Path("red.png"), np.full((20, 30, 3), (255, 0, 7), np.uint8))
        >>> sample = LoadBands([3, 1])({"img_path": "red.png"})
        >>> sample["img"][0, 0].tolist(), sample["img_shape"]
        ([7.0, 255.0], (20, 30))
    """

    def __init__(self, bands: Sequence[int], drawn: Sequence[int] | None = None) -> None:
        bands = list(bands)
        if not bands or not all(isinstance(band, int) and band >= 1 for band in bands):
            raise UserError(f"bands={bands} are not numbers of bands; write numbers from 1, for example 4,3,2.")
        if drawn is None:
            drawn = bands[:3] if len(bands) >= 3 else bands[:1]
        missing = [band for band in drawn if band not in bands]
        if missing or len(drawn) not in (1, 3):
            raise UserError(
                f"drawn={list(drawn)} must be three bands, or one, of {bands}; write for example {bands[:3]}."
            )
        self.bands = bands
        self.drawn = list(drawn)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Loads an image.

        Args:
            results: A sample with the key ``'img_path'``.

        Returns:
            The sample with ``'img'``, (H, W, N), float32, in the units of the file; and with ``'img_shape'`` and
            ``'ori_shape'``.

        Raises:
            UserError: The file is missing or not readable, has fewer bands, or has values that are not finite.
        """
        path = results["img_path"]
        image = read_bands(path, self.bands).astype(np.float32)
        invalid = int((~np.isfinite(image)).any(axis=2).sum())
        if invalid:
            raise UserError(
                f"The image {path} has {invalid:,} pixels with values that are not finite in the bands "
                f"{','.join(map(str, self.bands))}; give these pixels a number, for example 0."
            )
        results["img"] = image
        results["img_shape"] = image.shape[:2]
        results["ori_shape"] = image.shape[:2]
        return results

    def show(self, image: npt.NDArray[Any]) -> Pixels:
        """Shows the drawn bands of an image as red, green and blue (:func:`xcit_dense.visualization.bands.stretch`).

        Args:
            image: (H, W, N), as the model gets it before the normalisation.

        Returns:
            (H, W, 3), RGB, uint8.
        """
        return stretch(image[..., [self.bands.index(band) for band in self.drawn]])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bands={self.bands}, drawn={self.drawn})"


def loader_of(dataset: Any) -> LoadBands | None:
    """Returns the transform of a data set that loads bands. None if the data set loads ordinary images.

    Args:
        dataset: A data set of the libraries, also inside wrappers.
    """
    if hasattr(dataset, "datasets"):
        dataset = dataset.datasets[0]
    if not hasattr(dataset, "pipeline") and hasattr(dataset, "dataset"):
        return loader_of(dataset.dataset)
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    return next((step for step in steps if isinstance(step, LoadBands)), None)


@MODELS.register_module(name="BandsPreprocessor", force=True)
def make_preprocessor(base: str, mean: Sequence[float], std: Sequence[float], **options: Any) -> nn.Module:
    """Builds a data preprocessor of a library that normalises images with any number of channels.

    The preprocessors of the libraries check that there are one or three means. Their other code works with any number.

    Args:
        base: The type of the preprocessor, for example ``'DetDataPreprocessor'`` or ``'SegDataPreProcessor'``.
        mean: The mean of each channel.
        std: The standard deviation of each channel.
        **options: Further arguments of the preprocessor.

    Returns:
        The preprocessor, an object of the type ``base``.

    Raises:
        UserError: ``mean`` and ``std`` do not have the same length.

    Example:
        >>> prepare = make_preprocessor("ImgDataPreprocessor", mean=[0, 10, 20, 30], std=[1, 1, 1, 2])
        >>> prepare({"inputs": [torch.full((4, 1, 1), 40.0)]})["inputs"].flatten().tolist()
        [40.0, 30.0, 20.0, 5.0]
    """
    if len(mean) != len(std):
        raise UserError(
            f"The data preprocessor has {len(mean)} means and {len(std)} standard deviations; write one of each for "
            "each channel."
        )
    built: Any = MODELS.build({"type": base, **options})
    for name, values in (("mean", mean), ("std", std)):
        built.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)
    built._enable_normalize = True
    return built
