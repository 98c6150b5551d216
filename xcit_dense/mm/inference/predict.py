"""Detectors and segmentors at work on pictures and videos: a stream from files to results, a batch at a time.

Every step is a generator, so that no more than a batch is in memory, however many pictures there are.
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
from xcit_dense.mm.inference.classes import read_classes
from xcit_dense.mm.inference.samples import predicted_instances
from xcit_dense.mm.loading import find_fault, use_checked_loading
from xcit_dense.mm.runtime.console import prints_to_log, quiet
from xcit_dense.mm.runtime.weights import load_complete
from xcit_dense.models.xcit import XCiT
from xcit_dense.structures import Colour, Pixels
from xcit_dense.utils.progress import track
from xcit_dense.visualization.draw import draw_instances, draw_label_map

OUTPUTS = ("pictures", "labels", "images.json", "results.json", "parts")
"""What a run writes; ``parts`` is gone at its end."""

Fail = Callable[[Medium, Exception], None]
"""Notes that a picture, a video or a frame of it has failed, and why."""


@dataclass(frozen=True)
class Predictor:
    """A model and all that it takes to use it.

    Attributes:
        model: The detector or segmentor, deployed.
        load: Makes a dictionary with a path into one with a picture, as the config's test pipeline does.
        prepare: Makes of that what the model takes.
        classes: Their names.
        palette: Their colours.
        segments: Whether it is a segmentor.
    """

    model: nn.Module
    load: Callable[[dict[str, Any]], dict[str, Any] | None]
    prepare: Callable[[dict[str, Any]], Any]
    classes: Sequence[str]
    palette: Sequence[Colour]
    segments: bool


@dataclass(frozen=True)
class Summary:
    """What a run has come to.

    Attributes:
        pictures: How many there were, frames of videos included.
        objects: How many were found; None in segmentation.
        failures: What could not be done, or not wholly, and why.
    """

    pictures: int
    objects: int | None
    failures: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Frame:
    """A picture, or one of a video's.

    Attributes:
        medium: Where it comes from.
        number: That of a video's frame, from 0.
        picture: (H, W, 3), BGR.
        data: What the model takes: ``inputs`` and ``data_samples``.
    """

    medium: Medium
    number: int | None
    picture: Pixels
    data: dict[str, Any]


def join(launcher: str) -> None:
    """Joins the processes that a launcher has started, on GPUs or without.

    Args:
        launcher: ``'none'`` or ``'pytorch'``.
    """
    if launcher == "none":
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Nothing but waiting is done together, for as long as the slowest takes.
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))


def reserve(out: Path) -> None:
    """Makes the directory of a run, by the first of its processes; if it cannot, all of them end.

    Args:
        out: Where to write.

    Raises:
        UserError: It holds results already, or cannot be made.
    """
    fault: list[str | None] = [None]
    if dist.is_main_process():
        taken = [str(out / name) for name in OUTPUTS if (out / name).exists()]
        if taken:
            fault = [f"{', '.join(taken)} is there already; name another directory, or remove it."]
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
    """Predicts all media and writes what was found; each of several processes takes its share.

    What fails with one picture ends nothing. What ends the run leaves ``parts``, and the results so far.

    Args:
        predictor: The model.
        media: All pictures and videos.
        out: From :func:`reserve`.
        batch: As for :func:`predict`.
        score_thr: As for :func:`write`.

    Returns:
        The summary, in the first process.

    Raises:
        UserError: Something cannot be written.
    """
    rank, world = dist.get_dist_info()
    mine = media[rank * len(media) // world : (rank + 1) * len(media) // world]
    parts = [out / "parts" / f"{number}.jsonl" for number in range(world)]
    what = "pictures" if world == 1 else "pictures of this process"
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
            with suppress(Exception):  # of a full disk, say
                _join(predictor, out, [part for part in parts if part.exists()])
        if isinstance(error, OSError):
            raise UserError(f"{out} cannot be written: {error.strerror or error}; name another directory.") from error
        raise


def make_predictor(config: Config, weights: str, verbose: bool = False) -> Predictor:
    """Builds a config's model with its weights and deploys it (:func:`xcit_dense.deploy`).

    Args:
        config: A whole config, checked.
        weights: A checkpoint's path or address.
        verbose: Print what MMEngine logs while it builds the model.

    Returns:
        The model and its surroundings, on the GPU if MMEngine has found one.

    Raises:
        UserError: The weights cannot be had or do not fill the model, the config has no test pipeline, or nobody names
            the classes.
    """
    logger = MMLogger.get_current_instance()
    if not verbose:
        quiet(logger)
    with nullcontext() if verbose else prints_to_log(logger):
        model, checkpoint = _load_model(config, weights)
    model.to(get_device()).eval()
    if any(isinstance(module, XCiT) for module in model.modules()):
        deploy(model)
    dataset = _test_dataset(config)
    load, prepare = _split_pipeline(dataset.get("pipeline") or [])
    meta = checkpoint.get("meta") or {}
    count = _count_classes(model)
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
    """Reads pictures, and videos frame by frame, and prepares them for the model.

    Args:
        predictor: Of which the pipeline is used.
        media: What to read.
        fail: Called for each that cannot be read, and for a video that ends too early.

    Yields:
        Pictures, one at a time.
    """
    for medium in media:
        try:
            if medium.is_video:
                for number, frame in enumerate(read_frames(medium.path)):
                    shape = frame.shape[:2]
                    sample = {"img": frame, "img_path": str(medium.path), "img_shape": shape, "ori_shape": shape}
                    yield _prepare(predictor, medium, number, sample)
            else:
                yield _prepare(predictor, medium, None, _load(predictor, medium.path))
        except Exception as error:
            fail(medium, error)


def predict(predictor: Predictor, frames: Iterable[Frame], batch: int, fail: Fail) -> Iterator[tuple[Frame, Any]]:
    """Runs the model over pictures.

    Args:
        predictor: The model.
        frames: From :func:`read`.
        batch: How many go through the model at once, at most. Only neighbours of one size do, so that none is padded
            for another's sake, and the answers are those of a batch of one.
        fail: Called for each with which the model fails by itself, as where memory is short.

    Yields:
        Each picture with the sample that the model has filled.
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
    """Writes what the model has found: records of detections, label maps, and pictures.

    Args:
        predictor: Of which the classes are used.
        predictions: From :func:`predict`.
        out: The directory.
        part: For the records.
        score_thr: Least score of what is drawn; None draws no pictures.
        fail: Called for each whose answer is none, or cannot be drawn or named.

    Yields:
        Each picture, when all of it is written.

    Raises:
        UserError: Something cannot be written.
    """
    categories = [] if predictor.segments else make_categories(predictor.classes)
    with ExitStack() as stack:
        pictures = None if score_thr is None else stack.enter_context(FrameWriter(out / "pictures", fail))
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
                if pictures is not None:
                    picture = np.ascontiguousarray(frame.picture[..., ::-1])
                    drawing = draw(picture, classes=predictor.classes, palette=predictor.palette)
                    pictures.write(frame.medium, drawing)
            except Exception as error:
                if _is_of_disk(error):
                    raise
                fail(frame.medium, error)
            else:
                yield frame


def _count_classes(model: nn.Module) -> int:
    """How many classes a model tells apart: as many as the head that knows most, and not fewer than one."""
    heads = (module for name, module in model.named_modules() if "head" in name)
    counts = (getattr(head, "num_classes", None) for head in heads)
    return max((count for count in counts if isinstance(count, int)), default=1)


def _reason(error: Exception) -> str:
    """Why something failed, in one line."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "the GPU's memory is too small for it"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    # The text of others, as KeyError's, is no sentence.
    return text if text and isinstance(error, OSError | UserError) else f"{type(error).__name__}: {text}"


def _is_of_disk(error: Exception) -> bool:
    """Whether an error will meet the next picture too, unlike one of this picture's name."""
    cause = error.__cause__ if isinstance(error, UserError) else error
    return isinstance(cause, OSError) and cause.errno not in (None, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def _join(predictor: Predictor, out: Path, parts: Sequence[Path]) -> int | None:
    return None if predictor.segments else write_results(out, parts, make_categories(predictor.classes))


def _sum_up(predictor: Predictor, out: Path, parts: Sequence[Path]) -> Summary:
    pictures, failures = 0, Counter[tuple[str, str]]()
    for record in read_records(parts):
        if "failed" in record:
            failures[record["failed"], record["why"]] += 1
        else:
            pictures += 1
    objects = _join(predictor, out, parts)
    shutil.rmtree(out / "parts")
    often = [(name, why if count == 1 else f"{why} ({count} frames)") for (name, why), count in failures.items()]
    return Summary(pictures, objects, often)


def _load(predictor: Predictor, path: Path) -> dict[str, Any]:
    try:
        loaded = predictor.load({"img_path": str(path)})
    except UserError as error:  # which names the picture, and data sets
        raise OSError(find_fault(path)) from error
    if loaded is None:
        raise OSError("not a picture that can be read")
    return loaded


def _prepare(predictor: Predictor, medium: Medium, number: int | None, sample: dict[str, Any]) -> Frame:
    picture = np.asarray(sample["img"]).clip(0, 255).astype(np.uint8)
    try:
        data = predictor.prepare({**sample, "img_id": 0})
    except cv2.error as error:
        height, width = picture.shape[:2]
        raise OSError(f"at {width} x {height} pixels the config's test pipeline fails, {error.err}") from error
    return Frame(medium, number, picture, data)


def _sizes(frame: Frame) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return frame.picture.shape, tuple(frame.data["inputs"].shape)


def _run(model: Any, frames: list[Frame], fail: Fail) -> Iterator[tuple[Frame, Any]]:
    names = ("inputs", "data_samples")
    try:
        with torch.no_grad():
            samples = model.test_step({name: [frame.data[name] for frame in frames] for name in names})
    except Exception as error:
        samples = None
        if len(frames) == 1:
            fail(frames[0].medium, error)
    # Outside the handler, which holds what the model had in memory.
    if samples is not None:
        yield from zip(frames, samples)
    elif len(frames) > 1:
        for frame in frames:
            yield from _run(model, [frame], fail)


def _describe(frame: Frame) -> dict[str, Any]:
    """COCO's entry of a picture, of which the id is still open."""
    height, width = frame.picture.shape[:2]
    image: dict[str, Any] = {"file_name": frame.medium.name, "height": height, "width": width}
    if frame.number is not None:
        image |= {"file_name": f"{frame.medium.name}/{frame.number:06d}", "video": frame.medium.name}
        image["frame"] = frame.number
    return image


def _write_labels(directory: Path, frame: Frame, labels: npt.NDArray[np.integer], classes: int) -> None:
    # A video's with its ending: its frames may lie beside it as pictures, in a directory of its name.
    name = frame.medium.stem if frame.number is None else f"{frame.medium.name}/{frame.number:06d}"
    write_image(directory / f"{name}.png", labels.astype(np.uint8 if classes <= 256 else np.uint16))


def _test_dataset(config: Config) -> Any:
    """The config of the test data set, inside whatever wraps it."""
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset and ("dataset" in dataset or "datasets" in dataset):
        dataset = dataset.get("dataset") or dataset["datasets"][0]
    return dataset


def _split_pipeline(
    pipeline: Sequence[Any],
) -> tuple[Callable[[dict[str, Any]], dict[str, Any] | None], Callable[[dict[str, Any]], Any]]:
    """The test pipeline's first step and the rest, without what loads annotations."""
    names = [step["type"] if isinstance(step["type"], str) else step["type"].__name__ for step in pipeline]
    if not names or not names[0].endswith("LoadImageFromFile"):
        raise UserError(
            "The config's test pipeline does not begin with LoadImageFromFile; write test_dataloader.dataset.pipeline "
            "as in configs/_base_/datasets."
        )
    steps = [step for step, name in zip(pipeline, names) if "Load" not in name]
    load = deepcopy(pipeline[0])
    use_checked_loading(load)
    return TRANSFORMS.build(load), Compose(steps)
