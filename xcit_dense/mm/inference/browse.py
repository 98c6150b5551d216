"""Draws the images and ground truth that a training gets after augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.mm.bands import LoadBands, loader_of
from xcit_dense.mm.inference.classes import read_classes
from xcit_dense.mm.inference.samples import Truth, read_truth
from xcit_dense.mm.loading import use_checked_loading
from xcit_dense.mm.runtime.console import prints_to_log, quiet
from xcit_dense.structures import Pixels


@dataclass(frozen=True)
class View:
    """An image of a training.

    Attributes:
        name: The name of the image file.
        image: The image as the model gets it, (H, W, 3), RGB.
        truth: The ground truth.
    """

    name: str
    image: Pixels
    truth: Truth


class TrainingData:
    """The images of a training, one after the other, without end.

    The images are the model's input: loaded, augmented, in batches and padded. Only the normalisation and the order of
    the channels are undone.

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        seed: The seed of the order and the augmentation. The first batches of a training with this seed differ, because
            the training draws random weights first.
        verbose: Print what the libraries print while they read the data.

    Attributes:
        dataset: The data set of the training.
        classes: The names of the classes.
        palette: The colours of the classes.

    Raises:
        UserError: The config has no training data, or the classes have no names.
    """

    def __init__(self, config: Config, seed: int = 0, verbose: bool = False) -> None:
        init_default_scope(config.default_scope)
        if "train_dataloader" not in config:
            raise UserError("The config has no train_dataloader; take one of configs/_base_/datasets into its _base_.")
        set_random_seed(seed)
        # Without workers, so that the result depends on the seed only.
        loader = {**deepcopy(config.train_dataloader), "num_workers": 0, "persistent_workers": False}
        loader.pop("prefetch_factor", None)
        use_checked_loading(loader)
        logger = MMLogger.get_current_instance()
        if not verbose:
            quiet(logger)
        with nullcontext() if verbose else prints_to_log(logger):
            self._batches = Runner.build_dataloader(loader, seed=seed)
        if not len(self._batches):
            raise UserError("The training has no images; check the data set's ann_file, data_prefix and filter_cfg.")
        self._settings = config.model.get("data_preprocessor") or config.data_preprocessor
        self._prepare = import_module(f"{config.default_scope}.registry").MODELS.build(self._settings)
        self.dataset = self._batches.dataset
        self._bands = loader_of(self.dataset)
        meta = {key: value for key, value in self.dataset.metainfo.items() if value is not None}
        self.classes, self.palette = read_classes(meta, {}, config.default_scope)

    def __iter__(self) -> Iterator[View]:
        """Loads and augments the images."""
        epoch = 0
        while True:
            if hasattr(self._batches.sampler, "set_epoch"):  # samplers without end do not have this method
                self._batches.sampler.set_epoch(epoch)
            for batch in self._batches:
                data = self._prepare(batch, training=True)
                for image, sample in zip(data["inputs"], data["data_samples"]):
                    original = _restore(image, self._prepare, self._settings, self._bands)
                    truth = read_truth(sample, (original.shape[0], original.shape[1]))
                    yield View(Path(sample.img_path).name, original, truth)
            epoch += 1


def browse(config: Config, seed: int = 0, verbose: bool = False) -> Iterator[tuple[str, Pixels]]:
    """Draws the images of a training one after the other, without end.

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        seed: The seed of the order and the augmentation.
        verbose: Print what the libraries print while they read the data.

    Yields:
        The name of the image file, and the drawing, (H, W, 3), RGB.

    Raises:
        UserError: The config has no training data, or the classes have no names.
    """
    data = TrainingData(config, seed, verbose)
    for view in data:
        yield view.name, view.truth.draw(view.image, data.classes, data.palette)


def _restore(image: Tensor, prepare: Any, settings: dict[str, Any], bands: LoadBands | None) -> Pixels:
    """Undoes the normalisation of an image (N, H, W); returns (H, W, 3), RGB."""
    if settings.get("mean") is not None:
        image = image * prepare.std + prepare.mean
    if bands is not None:
        return bands.show(image.permute(1, 2, 0).cpu().numpy())
    pixels = image.permute(1, 2, 0).round().clamp(0, 255).byte().cpu().numpy()
    is_rgb = settings.get("bgr_to_rgb") or settings.get("rgb_to_bgr")  # both swap channels, and images are read as BGR
    return np.ascontiguousarray(pixels if is_rgb else pixels[..., ::-1])
