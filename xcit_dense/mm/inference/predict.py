"""Predictions for images and videos, as a stream from files to results.

Each step is a generator, so that only one batch is in memory.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import numpy.typing as npt
import torch
from mmcv.transforms import Compose
from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.runner import CheckpointLoader
from torch import nn

from xcit_dense.errors import UserError
from xcit_dense.inference.deploy import deploy
from xcit_dense.media.images import write_image
from xcit_dense.media.inputs import Medium
from xcit_dense.media.results import make_categories, make_results, read_records, write_record, write_results
from xcit_dense.media.video import FrameWriter, count_frames, read_frames
from xcit_dense.mm.bands import LoadBands
from xcit_dense.mm.inference.classes import count_classes, read_classes
from xcit_dense.mm.inference.samples import predicted_instances
from xcit_dense.mm.loading import find_file_fault, use_checked_loading
from xcit_dense.mm.runtime.console import prints_to_log, quiet
from xcit_dense.mm.runtime.weights import load_complete
from xcit_dense.models.backbone import Backbone
from xcit_dense.structures import Colour, Pixels
from xcit_dense.utils.progress import track
from xcit_dense.visualization.draw import draw_instances, draw_label_map

OUTPUTS = ("pictures", "labels", "images.json", "results.json", "parts")
"""The files and directories that a run writes. The run removes ``parts`` at its end."""

Fail = Callable[[Medium, Exception], None]
"""A function that records the failure of an image, a video or a frame, and the reason."""


@dataclass(frozen=True)
class Predictor:
    """A model with its preprocessing and its classes.

    Attributes:
        model: The deployed detector or segmentor.
        load: Adds the image to a dictionary with a path: the first step of the config's test pipeline.
        prepare: Makes the model's input of this dictionary: the other steps of the pipeline.
        classes: The names of the classes.
        palette: The colours of the classes.
        segments: Whether the model is a segmentor.
    """

    model: nn.Module
    load: Callable[[dict[str, Any]], dict[str, Any] | None]
    prepare: Callable[[dict[str, Any]], Any]
    classes: Sequence[str]
    palette: Sequence[Colour]
    segments: bool


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        images: The number of images, including frames of videos.
        objects: The number of detected objects; None for a segmentor.
        failures: Inputs that failed completely or in part, each with the reason.
    """

    images: int
    objects: int | None
    failures: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Frame:
    """An image, or a frame of a video.

    Attributes:
        medium: The file that contains the image.
        number: The number of a video's frame, from 0; None for an image file.
        image: (H, W, 3), BGR.
        data: The model's input: ``inputs`` and ``data_samples``.
    """

    medium: Medium
    number: int | None
    image: Pixels
    data: dict[str, Any]


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


def reserve(out: Path) -> None:
    """Makes the output directory on rank 0. If this fails, all processes raise the error.

    Args:
        out: The output directory.

    Raises:
        UserError: The directory contains results, or cannot be made.
    """
    fault: list[str | None] = [None]
    if dist.is_main_process():
        taken = [str(out / name) for name in OUTPUTS if (out / name).exists()]
        if taken:
            fault = [f"{', '.join(taken)} exists already; name another directory, or remove the old results."]
        else:
            try:
                (out / "parts").mkdir(parents=True)
            except OSError as error:
                fault = [f"{out} cannot be made: {error.strerror}; name another directory."]
    dist.broadcast_object_list(fault)
    if fault[0]:
        raise UserError(fault[0])


def run(
    predictor: Predictor, media: Sequence[Medium], out: Path, *, batch: int = 1, score_thr: float | None = 0.3
) -> Summary | None:
    """Predicts all media and writes the results. Each of several processes predicts a part of the media.

    A failure of one image does not end the run. If an error ends the run, ``parts`` and the results so far remain.

    Args:
        predictor: The model.
        media: All images and videos.
        out: The output directory, made by :func:`reserve`.
        batch: As for :func:`predict`.
        score_thr: As for :func:`write`.

    Returns:
        The summary on rank 0; None on other ranks.

    Raises:
        UserError: A result cannot be written.
    """
    rank, world = dist.get_dist_info()
    mine = media[rank * len(media) // world : (rank + 1) * len(media) // world]
    parts = [out / "parts" / f"{number}.jsonl" for number in range(world)]
    what = "images" if world == 1 else "images of this process"
    try:
        with parts[rank].open("w") as part, track(what, sum(map(count_frames, mine))) as count:

            def fail(medium: Medium, error: Exception) -> None:
                write_record(part, {"failed": medium.name, "why": _reason(error)})
                count()

            predictions = predict(predictor, read(predictor, mine, fail), batch, fail)
            for _ in write(predictor, predictions, out, part, score_thr, fail):
                count()
        dist.barrier()
        return _sum_up(predictor, out, parts) if rank == 0 else None
    except BaseException as error:
        if rank == 0:
            with suppress(Exception):  # for example if the disk is full
                _join(predictor, out, [part for part in parts if part.exists()])
        if isinstance(error, OSError):
            raise UserError(f"{out} cannot be written: {error.strerror or error}; name another directory.") from error
        raise


def make_predictor(config: Config, weights: str, verbose: bool = False) -> Predictor:
    """Builds a config's model with its weights and deploys it (:func:`xcit_dense.deploy`).

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        weights: The path or address of a checkpoint.
        verbose: Print what MMEngine logs while it builds the model.

    Returns:
        The predictor. Its model is on the GPU if MMEngine has found a GPU.

    Raises:
        UserError: The weights cannot be read or are incomplete, the config has no test pipeline, or neither the config
            nor the checkpoint names the classes.
    """
    logger = MMLogger.get_current_instance()
    if not verbose:
        quiet(logger)
    with nullcontext() if verbose else prints_to_log(logger):
        model, checkpoint = _load_model(config, weights)
    model.to(get_device()).eval()
    if any(isinstance(module, Backbone) for module in model.modules()):
        deploy(model)
    dataset = _test_dataset(config)
    load, prepare = _split_pipeline(dataset.get("pipeline") or [])
    meta = checkpoint.get("meta") or {}
    count = count_classes(model)
    classes, palette = read_classes(meta.get("dataset_meta") or {}, dataset, config.default_scope, count)
    return Predictor(model, load, prepare, classes, palette, config.default_scope == "mmseg")


def _load_model(config: Config, weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """Builds a model and loads its checkpoint; returns both."""
    init_default_scope(config.default_scope)
    model = import_module(f"{config.default_scope}.registry").MODELS.build(config.model)
    checkpoint = CheckpointLoader.load_checkpoint(weights, map_location="cpu")
    load_complete(model, checkpoint, weights)
    return model, checkpoint


def read(predictor: Predictor, media: Iterable[Medium], fail: Fail) -> Iterator[Frame]:
    """Reads images and frames of videos, and prepares them for the model.

    Args:
        predictor: The predictor whose pipeline prepares the images.
        media: The images and videos.
        fail: Called for each file that cannot be read, and for a video that ends too early.

    Yields:
        The images, one at a time.
    """
    for medium in media:
        try:
            if medium.is_video:
                _check_video(predictor)
                for number, frame in enumerate(read_frames(medium.path)):
                    shape = frame.shape[:2]
                    sample = {"img": frame, "img_path": str(medium.path), "img_shape": shape, "ori_shape": shape}
                    yield _prepare(predictor, medium, number, sample)
            else:
                yield _prepare(predictor, medium, None, _load(predictor, medium.path))
        except Exception as error:
            fail(medium, error)


def predict(predictor: Predictor, frames: Iterable[Frame], batch: int, fail: Fail) -> Iterator[tuple[Frame, Any]]:
    """Runs the model on images.

    Args:
        predictor: The model.
        frames: From :func:`read`.
        batch: The largest number of images in a batch. A batch contains successive images of one size, so that no image
            is padded and the predictions equal the predictions for single images.
        fail: Called for each image that fails in a batch of one, for example because the memory is too small.

    Yields:
        Each image with the sample that contains its predictions.
    """
    waiting: list[Frame] = []
    for frame in frames:
        if waiting and (len(waiting) == batch or _sizes(waiting[0]) != _sizes(frame)):
            yield from _run(predictor.model, waiting, fail)
            waiting = []
        waiting.append(frame)
    if waiting:
        yield from _run(predictor.model, waiting, fail)


def write(
    predictor: Predictor,
    predictions: Iterable[tuple[Frame, Any]],
    out: Path,
    part: TextIO,
    score_thr: float | None,
    fail: Fail,
) -> Iterator[Frame]:
    """Writes the predictions: records of detections, label maps, and drawings.

    Args:
        predictor: The predictor with the names of the classes.
        predictions: The output of :func:`predict`.
        out: The output directory.
        part: The file for the records.
        score_thr: The lowest score of an object that is drawn; None draws nothing.
        fail: Called for each image whose prediction is invalid, or cannot be drawn or named.

    Yields:
        Each image after all of its results are written.

    Raises:
        UserError: A result cannot be written.
    """
    categories = [] if predictor.segments else make_categories(predictor.classes)
    with ExitStack() as stack:
        drawings = None if score_thr is None else stack.enter_context(FrameWriter(out / "pictures", fail))
        for frame, sample in predictions:
            try:
                record: dict[str, Any] = {"image": _describe(frame)}
                if predictor.segments:
                    labels = sample.pred_sem_seg.data[0].cpu().numpy()
                    _write_labels(out / "labels", frame, labels, len(predictor.classes))
                    draw = partial(draw_label_map, label_map=labels)
                else:
                    instances = predicted_instances(sample.pred_instances)
                    record["results"] = make_results(instances, categories)
                    draw = partial(draw_instances, instances=instances.keep(score_thr or 0.0))
                write_record(part, record)
                if drawings is not None:
                    image = np.ascontiguousarray(frame.image[..., ::-1])
                    drawing = draw(image, classes=predictor.classes, palette=predictor.palette)
                    drawings.write(frame.medium, drawing)
            except Exception as error:
                if _is_of_disk(error):
                    raise
                fail(frame.medium, error)
            else:
                yield frame


def _reason(error: Exception) -> str:
    """Describes an error in one line."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "the GPU's memory is too small for it"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    # The texts of other errors, for example of KeyError, are not sentences.
    return text if text and isinstance(error, OSError | UserError) else f"{type(error).__name__}: {text}"


def _is_of_disk(error: Exception) -> bool:
    """Returns whether an error comes from the disk, and not from the name of one image."""
    cause = error.__cause__ if isinstance(error, UserError) else error
    return isinstance(cause, OSError) and cause.errno not in (None, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def _join(predictor: Predictor, out: Path, parts: Sequence[Path]) -> int | None:
    return None if predictor.segments else write_results(out, parts, make_categories(predictor.classes))


def _sum_up(predictor: Predictor, out: Path, parts: Sequence[Path]) -> Summary:
    images, failures = 0, Counter[tuple[str, str]]()
    for record in read_records(parts):
        if "failed" in record:
            failures[record["failed"], record["why"]] += 1
        else:
            images += 1
    objects = _join(predictor, out, parts)
    shutil.rmtree(out / "parts")
    often = [(name, why if count == 1 else f"{why} ({count} frames)") for (name, why), count in failures.items()]
    return Summary(images, objects, often)


def _load(predictor: Predictor, path: Path) -> dict[str, Any]:
    if isinstance(predictor.load, LoadBands):
        return predictor.load.transform({"img_path": str(path)})
    try:
        loaded = predictor.load({"img_path": str(path)})
    except UserError as error:  # its message advises on data sets
        raise OSError(find_file_fault(path)) from error
    if loaded is None:
        raise OSError("not an image that can be read")
    return loaded


def _check_video(predictor: Predictor) -> None:
    if isinstance(predictor.load, LoadBands):
        numbers = ",".join(map(str, predictor.load.bands))
        raise UserError(f"the model needs the bands {numbers} of image files, which a video does not have")


def _prepare(predictor: Predictor, medium: Medium, number: int | None, sample: dict[str, Any]) -> Frame:
    if isinstance(predictor.load, LoadBands):
        image = predictor.load.show(sample["img"])[..., ::-1]
    else:
        image = np.asarray(sample["img"]).clip(0, 255).astype(np.uint8)
    try:
        data = predictor.prepare({**sample, "img_id": 0})
    except cv2.error as error:
        height, width = image.shape[:2]
        raise OSError(f"at {width} x {height} pixels the config's test pipeline fails, {error.err}") from error
    return Frame(medium, number, image, data)


def _sizes(frame: Frame) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return frame.image.shape, tuple(frame.data["inputs"].shape)


def _run(model: Any, frames: list[Frame], fail: Fail) -> Iterator[tuple[Frame, Any]]:
    names = ("inputs", "data_samples")
    try:
        with torch.no_grad():
            samples = model.test_step({name: [frame.data[name] for frame in frames] for name in names})
    except Exception as error:
        samples = None
        if len(frames) == 1:
            fail(frames[0].medium, error)
    # Outside the except block, whose error holds the tensors of the model.
    if samples is not None:
        yield from zip(frames, samples)
    elif len(frames) > 1:
        for frame in frames:
            yield from _run(model, [frame], fail)


def _describe(frame: Frame) -> dict[str, Any]:
    """Makes COCO's entry of an image, without the id."""
    height, width = frame.image.shape[:2]
    image: dict[str, Any] = {"file_name": frame.medium.name, "height": height, "width": width}
    if frame.number is not None:
        image |= {"file_name": f"{frame.medium.name}/{frame.number:06d}", "video": frame.medium.name}
        image["frame"] = frame.number
    return image


def _write_labels(directory: Path, frame: Frame, labels: npt.NDArray[np.integer], classes: int) -> None:
    # With the suffix of a video, because a directory of its stem may contain its frames as images.
    name = frame.medium.stem if frame.number is None else f"{frame.medium.name}/{frame.number:06d}"
    write_image(directory / f"{name}.png", labels.astype(np.uint8 if classes <= 256 else np.uint16))


def _test_dataset(config: Config) -> Any:
    """Returns the config of the test data set, also inside wrappers."""
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset and ("dataset" in dataset or "datasets" in dataset):
        dataset = dataset.get("dataset") or dataset["datasets"][0]
    return dataset


def _split_pipeline(
    pipeline: Sequence[Any],
) -> tuple[Callable[[dict[str, Any]], dict[str, Any] | None], Callable[[dict[str, Any]], Any]]:
    """Builds the first step of the test pipeline, and its other steps without the steps that load annotations."""
    names = [step["type"] if isinstance(step["type"], str) else step["type"].__name__ for step in pipeline]
    if not names or not names[0].endswith(("LoadImageFromFile", "LoadBands")):
        raise UserError(
            "The config's test pipeline does not begin with LoadImageFromFile; write test_dataloader.dataset.pipeline "
            "as in configs/_base_/datasets."
        )
    steps = [step for step, name in zip(pipeline, names) if "Load" not in name]
    load = deepcopy(pipeline[0])
    use_checked_loading(load)
    return TRANSFORMS.build(load), Compose(steps)
