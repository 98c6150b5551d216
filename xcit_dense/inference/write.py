"""Predictions for files, written to a directory: drawings, COCO's JSON files, label maps.

Several processes share the files if they have joined each other through ``torch.distributed``.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from xcit_dense.errors import UserError
from xcit_dense.inference.stream import Engine, FileFrame, describe, predict, read
from xcit_dense.media.inputs import Medium
from xcit_dense.media.results import make_categories, make_results, read_records, write_record, write_results
from xcit_dense.media.video import FrameWriter, count_frames
from xcit_dense.predictions import Detection, Prediction, Segmentation
from xcit_dense.utils.processes import on_rank_zero, rank_and_world, wait
from xcit_dense.utils.progress import track

OUTPUTS = ("pictures", "labels", "images.json", "results.json", "parts")
"""The files and directories that a run writes. The run removes ``parts`` at its end."""

Fail = Callable[[Medium, Exception], None]
"""A function that records the failure of an image, a video or a frame, and the reason."""


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


def reserve(out: Path) -> None:
    """Makes the output directory on rank 0. If this fails, all processes raise the error.

    Args:
        out: The output directory.

    Raises:
        UserError: The directory contains results, or cannot be made.
    """
    on_rank_zero(lambda: make_empty(out, OUTPUTS))


def make_empty(out: Path, outputs: Sequence[str]) -> None:
    """Makes an output directory with a directory ``parts``.

    Args:
        out: The output directory.
        outputs: The names of the files and directories that a run writes.

    Raises:
        UserError: One of these names exists already, or the directory cannot be made.
    """
    taken = [str(out / name) for name in outputs if (out / name).exists()]
    if taken:
        raise UserError(f"{', '.join(taken)} exists already; name another directory, or remove the old results.")
    try:
        (out / "parts").mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}; name another directory.") from error


def run(
    engine: Engine, media: Sequence[Medium], out: Path, *, batch: int = 1, score_thr: float | None = 0.3
) -> Summary | None:
    """Predicts all media and writes the results. Each of several processes predicts a part of the media.

    A failure of one image does not end the run. If an error ends the run, ``parts`` and the results so far remain.

    Args:
        engine: The model.
        media: All images and videos.
        out: The output directory, made by :func:`reserve`.
        batch: As for :func:`predict`.
        score_thr: As for :func:`write`.

    Returns:
        The summary on rank 0; None on other ranks.

    Raises:
        UserError: A result cannot be written.
    """
    rank, world = rank_and_world()
    mine = media[rank * len(media) // world : (rank + 1) * len(media) // world]
    parts = [out / "parts" / f"{number}.jsonl" for number in range(world)]
    what = "images" if world == 1 else "images of this process"
    try:
        with parts[rank].open("w") as part, track(what, sum(map(count_frames, mine))) as count:

            def fail(medium: Medium, error: Exception) -> None:
                write_record(part, {"failed": medium.name, "why": describe(error)})
                count()

            frames = read(engine, mine, fail)
            predictions = predict(engine, frames, batch, lambda frame, error: fail(frame.medium, error))
            for _ in write(engine, predictions, out, part, score_thr, fail):
                count()
        wait()
        return _sum_up(engine, out, parts) if rank == 0 else None
    except BaseException as error:
        if rank == 0:
            with suppress(Exception):  # for example if the disk is full
                _join(engine, out, [part for part in parts if part.exists()])
        if isinstance(error, OSError):
            raise UserError(f"{out} cannot be written: {error.strerror or error}; name another directory.") from error
        raise


def write(
    engine: Engine,
    predictions: Iterable[tuple[FileFrame, Prediction]],
    out: Path,
    part: TextIO,
    score_thr: float | None,
    fail: Fail,
) -> Iterator[FileFrame]:
    """Writes the predictions: records of detections, label maps, and drawings.

    Args:
        engine: The model with the names of the classes.
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
    categories = [] if engine.segments else make_categories(engine.classes)
    with ExitStack() as stack:
        drawings = None if score_thr is None else stack.enter_context(FrameWriter(out / "pictures", fail))
        for frame, found in predictions:
            try:
                record: dict[str, Any] = {"image": _describe_image(frame)}
                if isinstance(found, Segmentation):
                    found.save_labels(out / "labels" / _name_of_labels(frame))
                elif isinstance(found, Detection):
                    record["results"] = make_results(found.instances, categories)
                    found = found.keep(score_thr or 0.0)
                write_record(part, record)
                if drawings is not None:
                    drawings.write(frame.medium, found.plot())
            except Exception as error:
                if _is_of_disk(error):
                    raise
                fail(frame.medium, error)
            else:
                yield frame


def _is_of_disk(error: Exception) -> bool:
    """Returns whether an error comes from the disk, and not from the name of one image."""
    cause = error.__cause__ if isinstance(error, UserError) else error
    return isinstance(cause, OSError) and cause.errno not in (None, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def _join(engine: Engine, out: Path, parts: Sequence[Path]) -> int | None:
    return None if engine.segments else write_results(out, parts, make_categories(engine.classes))


def _sum_up(engine: Engine, out: Path, parts: Sequence[Path]) -> Summary:
    images, failures = 0, Counter[tuple[str, str]]()
    for record in read_records(parts):
        if "failed" in record:
            failures[record["failed"], record["why"]] += 1
        else:
            images += 1
    objects = _join(engine, out, parts)
    shutil.rmtree(out / "parts")
    often = [(name, why if count == 1 else f"{why} ({count} frames)") for (name, why), count in failures.items()]
    return Summary(images, objects, often)


def _describe_image(frame: FileFrame) -> dict[str, Any]:
    """Makes COCO's entry of an image, without the id."""
    height, width = frame.input.image.shape[:2]
    image: dict[str, Any] = {"file_name": frame.medium.name, "height": height, "width": width}
    if frame.number is not None:
        image |= {"file_name": f"{frame.medium.name}/{frame.number:06d}", "video": frame.medium.name}
        image["frame"] = frame.number
    return image


def _name_of_labels(frame: FileFrame) -> str:
    # With the suffix of a video, because a directory of its stem may contain its frames as images.
    name = frame.medium.stem if frame.number is None else f"{frame.medium.name}/{frame.number:06d}"
    return f"{name}.png"
