"""Draws the images and ground truth that a training gets after augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
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
from xcit_dense.mm.inference.samples import draw_truth
from xcit_dense.mm.loading import use_checked_loading
from xcit_dense.mm.runtime.console import prints_to_log, quiet
from xcit_dense.structures import Pixels


def browse(config: Config, seed: int = 0, verbose: bool = False) -> Iterator[tuple[str, Pixels]]:
    """Draws the images of a training one after the other, without end.

    The images are the model's input: loaded, augmented, in batches and padded. Only the normalisation and the order of
    the channels are undone.

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        seed: The seed of the order and the augmentation. The first batches of a training with this seed differ, because
            the training draws random weights first.
        verbose: Print what the libraries print while they read the data.

    Yields:
        The name of the image file, and the drawing, (H, W, 3), RGB.

    Raises:
        UserError: The config has no training data, or the classes have no names.
    """
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
        batches = Runner.build_dataloader(loader, seed=seed)
    if not len(batches):
        raise UserError("The training has no images; check the data set's ann_file, data_prefix and filter_cfg.")
    settings = config.model.get("data_preprocessor") or config.data_preprocessor
    prepare = import_module(f"{config.default_scope}.registry").MODELS.build(settings)
    meta = {key: value for key, value in batches.dataset.metainfo.items() if value is not None}
    classes, palette = read_classes(meta, {}, config.default_scope)
    bands = loader_of(batches.dataset)
    epoch = 0
    while True:
        if hasattr(batches.sampler, "set_epoch"):  # samplers without end do not have this method
            batches.sampler.set_epoch(epoch)
        for batch in batches:
            data = prepare(batch, training=True)
            for image, sample in zip(data["inputs"], data["data_samples"]):
                original = _restore(image, prepare, settings, bands)
                yield Path(sample.img_path).name, draw_truth(original, sample, classes, palette)
        epoch += 1


def _restore(image: Tensor, prepare: Any, settings: dict[str, Any], bands: LoadBands | None) -> Pixels:
    """Undoes the normalisation of an image (N, H, W); returns (H, W, 3), RGB."""
    if settings.get("mean") is not None:
        image = image * prepare.std + prepare.mean
    if bands is not None:
        return bands.show(image.permute(1, 2, 0).cpu().numpy())
    pixels = image.permute(1, 2, 0).round().clamp(0, 255).byte().cpu().numpy()
    is_rgb = settings.get("bgr_to_rgb") or settings.get("rgb_to_bgr")  # both swap channels, and images are read as BGR
    return np.ascontiguousarray(pixels if is_rgb else pixels[..., ::-1])
