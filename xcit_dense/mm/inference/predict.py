"""A deployed model of the MM libraries with its preprocessing, as an engine for predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.runner import CheckpointLoader
from torch import nn

from xcit_dense.errors import UserError
from xcit_dense.inference.deploy import deploy
from xcit_dense.inference.stream import Input
from xcit_dense.inference.write import OUTPUTS, Summary, reserve, run
from xcit_dense.media.arrays import to_bands, to_rgb
from xcit_dense.mm.bands import LoadBands
from xcit_dense.mm.config.walk import name_of
from xcit_dense.mm.inference.classes import count_classes, read_classes
from xcit_dense.mm.inference.samples import predicted_instances
from xcit_dense.mm.loading import find_file_fault, use_checked_loading
from xcit_dense.mm.runtime.console import prints_to_log, quiet
from xcit_dense.mm.runtime.weights import load_complete
from xcit_dense.models.backbone import Backbone
from xcit_dense.predictions import Detection, Prediction, Segmentation
from xcit_dense.structures import Colour

__all__ = ["OUTPUTS", "Predictor", "Summary", "join", "make_predictor", "reserve", "run"]


@dataclass(frozen=True)
class Predictor:
    """A model with its preprocessing and its classes: an :class:`xcit_dense.inference.stream.Engine`.

    Several threads may use one predictor. The model runs for one thread at a time.

    Attributes:
        model: The deployed detector or segmentor.
        load: Adds the image to a dictionary with a path: the first step of the config's test pipeline.
        prepare: Makes the model's input of this dictionary: the other steps of the pipeline.
        classes: The names of the classes.
        palette: The colours of the classes.
        segments: Whether the model is a segmentor.
        config: The config that the model and its preprocessing were built from.
        lock: Is held while the model runs.
    """

    model: nn.Module
    load: Callable[[dict[str, Any]], dict[str, Any] | None]
    prepare: Callable[[dict[str, Any]], Any]
    classes: Sequence[str]
    palette: Sequence[Colour]
    segments: bool
    config: Config
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def read(self, path: Path) -> Input:
        """Reads an image file as the config's test pipeline does, and prepares it.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be read, or the image does not fit the model.
            UserError: The file does not have the bands of the model.
        """
        if isinstance(self.load, LoadBands):
            return self._prepare(self.load.transform({"img_path": str(path)}))
        try:
            loaded = self.load({"img_path": str(path)})
        except UserError as error:  # its message advises on data sets
            raise OSError(find_file_fault(path)) from error
        if loaded is None:
            raise OSError("not an image that can be read")
        return self._prepare(loaded)

    def accept(self, image: Any, path: Path | None = None) -> Input:
        """Prepares an image in memory.

        Args:
            image: RGB, as for :func:`xcit_dense.media.arrays.to_rgb`. A model of other bands takes what
                :func:`xcit_dense.media.arrays.to_bands` takes.
            path: The video that contains the image. None for an image of the caller.

        Raises:
            OSError: The image does not fit the model.
            UserError: The image has another type or another number of bands.
        """
        if isinstance(self.load, LoadBands) and path is not None:
            numbers = ",".join(map(str, self.load.bands))
            raise UserError(f"the model needs the bands {numbers} of image files, which a video does not have")
        return self._prepare(self.make_sample(image, path))

    def make_sample(self, image: Any, path: Path | None = None) -> dict[str, Any]:
        """Makes of an image in memory what :attr:`load` makes of a file.

        Args:
            image: As for :meth:`accept`.
            path: As for :meth:`accept`.

        Raises:
            UserError: The image has another type or another number of bands.
        """
        if isinstance(self.load, LoadBands):
            pixels: Any = to_bands(image, len(self.load.bands))
        else:
            pixels = np.ascontiguousarray(to_rgb(image)[..., ::-1])  # the libraries' pipelines take BGR
            if getattr(self.load, "color_type", "color").startswith("grayscale"):
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
            if getattr(self.load, "to_float32", False):
                pixels = pixels.astype(np.float32)
        shape = pixels.shape[:2]
        return {"img": pixels, "img_path": str(path or ""), "img_shape": shape, "ori_shape": shape, "img_id": 0}

    def infer(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Runs the model.

        Args:
            inputs: A batch of images of one size.

        Returns:
            The prediction for each image.
        """
        data = {name: [one.data[name] for one in inputs] for name in ("inputs", "data_samples")}
        model: Any = self.model
        with self.lock, torch.no_grad(), _without_logits(model):
            samples = model.test_step(data)
        return [self._convert(one, sample) for one, sample in zip(inputs, samples)]

    def _prepare(self, sample: dict[str, Any]) -> Input:
        pixels = np.asarray(sample["img"])
        if isinstance(self.load, LoadBands):
            image = self.load.show(pixels)
        else:
            colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
            image = np.ascontiguousarray(colours.clip(0, 255).astype(np.uint8)[..., ::-1])
        try:
            data = self.prepare({**sample, "img_id": 0})
        except cv2.error as error:
            height, width = image.shape[:2]
            raise OSError(f"at {width} x {height} pixels the config's test pipeline fails, {error.err}") from error
        return Input(image, data, (image.shape, tuple(data["inputs"].shape)))

    def _convert(self, one: Input, sample: Any) -> Prediction:
        common: dict[str, Any] = {"image": one.image, "classes": self.classes, "palette": self.palette}
        if self.segments:
            return Segmentation(labels=sample.pred_sem_seg.data[0].cpu().numpy(), **common)
        return Detection.from_instances(predicted_instances(sample.pred_instances), **common)


@contextmanager
def _without_logits(model: Any) -> Iterator[None]:
    """Lets a FusedEncoderDecoder predict labels only."""
    model.keeps_logits = False
    try:
        yield
    finally:
        model.keeps_logits = True


def join(launcher: str) -> None:
    """Joins the processes that a launcher has started, with or without GPUs.

    Args:
        launcher: ``'none'`` or ``'pytorch'``.
    """
    if launcher == "none":
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The processes only wait for each other. The timeout must be longer than the slowest process takes.
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))


def make_predictor(config: Config, weights: str, verbose: bool = False, device: str | None = None) -> Predictor:
    """Builds a config's model with its weights and deploys it (:func:`xcit_dense.deploy`).

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        weights: The path or address of a checkpoint.
        verbose: Print what MMEngine logs while it builds the model.
        device: The device, for example ``'cuda:1'``. By default a GPU if there is one.

    Returns:
        The predictor.

    Raises:
        UserError: The weights cannot be read or are incomplete, the config has no test pipeline, or neither the config
            nor the checkpoint names the classes.
    """
    logger = MMLogger.get_current_instance()
    if not verbose:
        quiet(logger)
    with nullcontext() if verbose else prints_to_log(logger):
        model, checkpoint = build_model(config, weights)
    model.to(device or get_device()).eval()
    if any(isinstance(module, Backbone) for module in model.modules()):
        deploy(model)
    dataset = test_dataset(config)
    load, prepare = split_pipeline(dataset.get("pipeline") or [])
    meta = checkpoint.get("meta") or {}
    count = count_classes(model)
    classes, palette = read_classes(meta.get("dataset_meta") or {}, dataset, config.default_scope, count)
    return Predictor(model, load, prepare, classes, palette, config.default_scope == "mmseg", config)


def build_model(config: Config, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """Builds the model of a config and loads its checkpoint.

    Args:
        config: A complete config.
        weights: The path or address of a checkpoint.

    Returns:
        The model and the checkpoint.

    Raises:
        UserError: The weights cannot be read or do not fill the model.
    """
    init_default_scope(config.default_scope)
    model = import_module(f"{config.default_scope}.registry").MODELS.build(config.model)
    checkpoint = CheckpointLoader.load_checkpoint(weights, map_location="cpu")
    load_complete(model, checkpoint, weights)
    return model, checkpoint


def takes_bgr(preprocessor: Any) -> bool:
    """Returns whether the model behind a data preprocessor takes BGR, as the libraries' pipelines read images.

    Args:
        preprocessor: The model's ``data_preprocessor``.
    """
    # MMEngine and the fork of MMSegmentation call it _channel_conversion, the original MMSegmentation
    # channel_conversion.
    return not getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "channel_conversion", False))


def test_dataset(config: Config) -> Any:
    """Returns the config of the test data set, also inside wrappers.

    Args:
        config: A complete config.
    """
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset and ("dataset" in dataset or "datasets" in dataset):
        dataset = dataset.get("dataset") or dataset["datasets"][0]
    return dataset


def split_pipeline(
    pipeline: Sequence[Any],
) -> tuple[Callable[[dict[str, Any]], dict[str, Any] | None], Callable[[dict[str, Any]], Any]]:
    """Builds the steps of a test pipeline.

    Args:
        pipeline: The configs of the steps.

    Returns:
        The first step, and the other steps without the steps that load annotations.

    Raises:
        UserError: The pipeline does not begin with the step that loads the image.
    """
    names = [name_of(step) for step in pipeline]
    if not names or not names[0].endswith(("LoadImageFromFile", "LoadBands")):
        raise UserError(
            "The config's test pipeline does not begin with LoadImageFromFile; write test_dataloader.dataset.pipeline "
            "as in configs/_base_/datasets."
        )
    steps = [step for step, name in zip(pipeline, names) if "Load" not in name]
    load = deepcopy(pipeline[0])
    use_checked_loading(load)
    return TRANSFORMS.build(load), Compose(steps)
