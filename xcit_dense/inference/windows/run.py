"""The loop over images and windows: read, predict, blend or merge, record."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import UserError
from xcit_dense.inference.stream import describe
from xcit_dense.inference.windows import journal
from xcit_dense.inference.windows.blend import Blender, Scores, choose, empty_label, stored_bytes
from xcit_dense.inference.windows.engine import Values, WindowEngine
from xcit_dense.inference.windows.journal import Journal, Record
from xcit_dense.inference.windows.objects import in_image
from xcit_dense.inference.windows.outputs import NOTE, Outputs
from xcit_dense.inference.windows.plan import Plan, check_window
from xcit_dense.inference.write import make_empty
from xcit_dense.media.inputs import Medium
from xcit_dense.rasters.canvas import Canvas, check_space
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import Source
from xcit_dense.rasters.window import Window
from xcit_dense.structures import Instances
from xcit_dense.utils.processes import on_rank_zero, rank_and_world, wait
from xcit_dense.utils.progress import track

OUTPUTS = ("labels", "objects", "scores", "previews", "images.json", "results.json", "parts")
"""The files and directories that a run writes. The run removes ``parts`` at its end."""


@dataclass(frozen=True)
class Options:
    """How an image is predicted by windows.

    Attributes:
        side: The side of a window in pixels of the image.
        overlap: The number of pixels that neighbouring windows share.
        batch: The largest number of windows in a batch.
        score_thr: The lowest score of an object, in [0, 1]. Objects with lower scores are neither merged nor written.
        scores: Write the class scores of a segmentor too.
        preview: Write a small drawing of each image.

    Raises:
        UserError: A value is out of range.
    """

    side: int
    overlap: int
    batch: int = 1
    score_thr: float = 0.3
    scores: bool = False
    preview: bool = True

    def __post_init__(self) -> None:
        check_window(self.side, self.overlap)


@dataclass(frozen=True)
class Summary:
    """The result of a run.

    Attributes:
        images: The number of images that are written.
        windows: The number of windows of these images.
        skipped: The number of windows without data.
        objects: The number of objects; None for a segmentor.
        failures: Images and windows that failed, each with the reason.
        notes: Sentences about images.
    """

    images: int
    windows: int
    skipped: int
    objects: int | None
    failures: Sequence[tuple[str, str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Image:
    """An image of a run."""

    medium: Medium
    directory: Path
    plan: Plan
    bands: Sequence[int]

    @property
    def name(self) -> str:
        return self.medium.name


@dataclass
class _Found:
    """The images of a run, what failed, and notes."""

    images: list[_Image] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(
    engine: WindowEngine, media: Sequence[Medium], out: Path, options: Options, *, resume: bool = False
) -> Summary | None:
    """Predicts images by windows and writes the results. Each of several processes predicts a part of the windows.

    A failure of one window or image does not end the run. A run that ends early leaves ``parts``, from which a run with
    ``resume`` goes on.

    Args:
        engine: The model.
        media: The images.
        out: The output directory.
        options: The windows and the outputs.
        resume: Go on with a run that ended early.

    Returns:
        The summary on rank 0; None on other ranks.

    Raises:
        UserError: The output directory has results, or parts of another run; a medium is a video; a detector has no
            class scores; a result cannot be written.
    """
    if options.scores and not engine.segments:
        raise UserError("--scores writes the class scores of a segmentor, and this model is a detector; leave it out.")
    videos = [medium.name for medium in media if medium.is_video]
    if videos:
        raise UserError(f"{videos[0]} is a video; leave --window out for videos, whose frames are small.")
    facts = _facts(engine, media, options)
    on_rank_zero(lambda: _begin(out, facts, resume))
    rank, world = rank_and_world()
    found = _open_all(engine, media, out, options)
    outputs = Outputs(engine, out, options.preview)
    if rank == 0 or world == 1:
        for image in found.images:
            image.directory.mkdir(exist_ok=True)
    if world > 1:
        on_rank_zero(lambda: _make_canvases(engine, found.images, options))
    mine = _share(found.images, rank, world)
    wait()  # each process must know what is done before another one does more
    total = sum(len(image.plan.columns) * len(rows) for image, rows in mine)
    with track("windows" if world == 1 else "windows of this process", total) as count:
        for image, rows in mine:
            if world == 1:
                _make_canvases(engine, [image], options)
            _predict_rows(engine, image, rows, options, rank, count)
            if world == 1:
                _finish(engine, image, outputs, options)
    wait()
    if world > 1:
        for image in found.images[rank::world]:
            _finish(engine, image, outputs, options)
        wait()
    return _sum_up(engine, found, outputs, out) if rank == 0 else None


def _facts(engine: WindowEngine, media: Sequence[Medium], options: Options) -> dict[str, str]:
    """What the results depend on."""
    facts = {**engine.fingerprint, "--window": str(options.side), "--overlap": str(options.overlap)}
    facts |= {"--scores": str(options.scores)} if engine.segments else {"--score-thr": str(options.score_thr)}
    for medium in media:
        status = medium.path.stat()
        facts[f"image {medium.name}"] = f"{status.st_size} bytes of {status.st_mtime_ns}"
    return facts


def _begin(out: Path, facts: Mapping[str, str], resume: bool) -> None:
    parts = out / "parts"
    if resume and parts.exists():
        journal.check(parts, facts)
        return
    if resume and any((out / name).exists() for name in OUTPUTS):
        raise UserError(f"{out} is complete, so --resume has nothing to do; name another --out.")
    if (parts / "run.json").exists():
        raise UserError(f"{parts} is of a run that ended early; write --resume to go on, or remove {out}.")
    make_empty(out, OUTPUTS)
    journal.begin(parts, facts)


def _open_all(engine: WindowEngine, media: Sequence[Medium], out: Path, options: Options) -> _Found:
    """Opens each image once to make its plan."""
    found = _Found()
    for number, medium in enumerate(media):
        try:
            with open_source(medium.path) as source:
                bands = engine.choose_bands(source)
                plan = Plan(source.height, source.width, options.side, options.overlap)
        except (UserError, OSError) as error:
            found.failures.append((medium.name, describe(error)))
            continue
        if plan.is_small:
            found.notes.append(
                f"{medium.name} is smaller than a window of {options.side} pixels: its windows have "
                f"{plan.shape[1]} x {plan.shape[0]} pixels."
            )
        found.images.append(_Image(medium, out / "parts" / str(number), plan, bands))
    return found


def _share(images: Sequence[_Image], rank: int, world: int) -> list[tuple[_Image, list[int]]]:
    """The rows of windows that a process predicts: for each image the rows that are not done, in order."""
    todo = []
    for image in images:
        done = Journal(image.directory, rank).done() if image.directory.exists() else {}
        todo.append([row for row in range(len(image.plan.rows)) if row not in done])
    total = sum(len(rows) * len(image.plan.columns) for image, rows in zip(images, todo))
    mine, before = [], 0
    for image, rows in zip(images, todo):
        size = len(image.plan.columns)
        own = [row for number, row in enumerate(rows) if (before + number * size) * world // total == rank]
        before += len(rows) * size
        if own or world == 1:  # one process also finishes an image whose rows are all done
            mine.append((image, own))
    return mine


def _canvas(engine: WindowEngine, image: _Image, scores: bool, make: bool) -> Canvas:
    """The label map of an image, or the class scores."""
    path = image.directory / ("scores.npy" if scores else "labels.npy")
    empty = empty_label(len(engine.classes))
    kind: Any = np.float16 if scores else np.min_scalar_type(empty)
    bands = len(engine.classes) if scores else None
    size = image.plan.height, image.plan.width
    if make and not path.exists():
        return Canvas.create(path, *size, kind, 0 if scores else empty, bands)
    return Canvas.reopen(path, *size, kind, bands)


def _make_canvases(engine: WindowEngine, images: Sequence[_Image], options: Options) -> None:
    for image in images if engine.segments else ():
        if not any(image.directory.iterdir()):  # an image that goes on has its canvases
            check_space(image.directory, stored_bytes(image.plan, len(engine.classes), options.scores))
        _canvas(engine, image, scores=False, make=True).close()
        if options.scores:
            _canvas(engine, image, scores=True, make=True).close()


@contextmanager
def _canvases(engine: WindowEngine, image: _Image, options: Options) -> Iterator[tuple[Canvas, Canvas | None]]:
    """Opens the label map of an image and, where they are written, the class scores. Closes both at the end."""
    with ExitStack() as stack:
        labels = stack.enter_context(_canvas(engine, image, scores=False, make=False))
        scores = None
        if options.scores:
            scores = stack.enter_context(_canvas(engine, image, scores=True, make=False))
        yield labels, scores


def _predict_rows(
    engine: WindowEngine, image: _Image, rows: Sequence[int], options: Options, rank: int, count: Callable[[], None]
) -> None:
    """Predicts rows of windows of an image, and records each row when it is on the disk."""
    if not rows:
        return
    record = Journal(image.directory, rank)
    with open_source(image.medium.path) as source:
        reader = _Reader(engine, image, source, options)
        if engine.segments:
            for entry in _label_rows(reader, rows, rank, count):
                record.append(entry)
            return
        for row in rows:
            entry = _empty_record(row)
            for window, found in reader.predict(row, entry):
                count()
                if found is not None:
                    entry["objects"] += [one.as_json() for one in in_image(found, window, options.score_thr)]
            record.append(entry)


def _label_rows(reader: _Reader, rows: Sequence[int], rank: int, count: Callable[[], None]) -> Iterator[Record]:
    """Writes the labels of rows of windows. Yields the record of each row when its labels are on the disk."""
    engine, image, plan = reader.engine, reader.image, reader.image.plan
    path = image.directory / f"shared-{rank}.npy"
    previous = None
    blender: Blender | None = None
    with _canvases(engine, image, reader.options) as (labels, scores):
        for row in rows:
            if blender is None or previous != row - 1:
                # The rows above reach into this row. Their scores are not on the disk, so they are computed again.
                blender = Blender(plan, len(engine.classes), path)
                for above in plan.reaching(row):
                    for _ in blender.add_row(above, reader.score(above, _empty_record(above))):
                        pass
            entry = _empty_record(row)
            for area, final in blender.add_row(row, _counted(reader.score(row, entry), count)):
                labels.write(area, choose(final, engine.threshold))
                if scores is not None:
                    total = final.sum(axis=0)
                    shares = final / np.where(total > 0, total, 1)
                    scores.write(area, shares.transpose(1, 2, 0))
            previous = row
            yield entry
    path.unlink(missing_ok=True)


def _empty_record(row: int) -> Record:
    return {"row": row, "skipped": 0, "failed": [], "objects": []}


def _counted(scores: Iterator[Scores | None], count: Callable[[], None]) -> Iterator[Scores | None]:
    for one in scores:
        yield one
        count()


@dataclass
class _Reader:
    """Reads and predicts the windows of an image."""

    engine: WindowEngine
    image: _Image
    source: Source
    options: Options

    def score(self, row: int, entry: Record) -> Iterator[Scores | None]:
        """The class scores of the windows of a row, 0 in pixels without data. None for a window without scores."""
        for _, found in self.predict(row, entry):
            yield found

    def predict(self, row: int, entry: Record) -> Iterator[tuple[Window, Any]]:
        """Predicts the windows of a row in batches. Records the windows that are skipped or that fail.

        Yields:
            Each window with its class scores or its objects; with None if the window was skipped or failed.
        """
        waiting: list[tuple[Window, Values | None, npt.NDArray[np.bool_] | None]] = []
        windows = list(self.image.plan.windows(row))
        for number, window in enumerate(windows):
            waiting.append(self._read(window, entry))
            full = sum(pixels is not None for _, pixels, _ in waiting) == self.options.batch
            if full or number + 1 == len(windows):
                results = iter(self._infer([one for one in waiting if one[1] is not None], entry))
                for place, pixels, valid in waiting:
                    result = None if pixels is None else next(results)
                    if result is not None and self.engine.segments and valid is not None:
                        result = result * valid
                    yield place, result
                waiting = []

    def _read(self, window: Window, entry: Record) -> tuple[Window, Values | None, npt.NDArray[np.bool_] | None]:
        """The pixels of a window, and which of them have data: None if all have."""
        try:
            valid = self.source.read_valid(window)
            if not valid.any():
                entry["skipped"] += 1
                return window, None, None
            pixels = self.source.read(window, self.image.bands)
            if not valid.all():
                pixels[~valid] = np.array(self.engine.fill).astype(pixels.dtype)
            if not np.isfinite(pixels).all():
                raise UserError("some values are not finite; give these pixels a number, or declare them as nodata")
        except (UserError, OSError) as error:
            entry["failed"].append([str(window), describe(error)])
            return window, None, None
        return window, pixels, None if valid.all() else valid

    def _infer(
        self, windows: Sequence[tuple[Window, Values | None, npt.NDArray[np.bool_] | None]], entry: Record
    ) -> list[Any]:
        """Predicts a batch. If the batch fails, each of its windows is predicted separately."""
        if not windows:
            return []
        compute: Any = self.engine.score if self.engine.segments else self.engine.find
        try:
            results = list(compute([pixels for _, pixels, _ in windows]))
            for result in results:
                _check_finite(result)
            return results
        except Exception as error:
            if len(windows) == 1:
                entry["failed"].append([str(windows[0][0]), describe(error)])
                return [None]
        # Outside the except block, whose error holds the tensors of the model.
        return [result for one in windows for result in self._infer([one], entry)]


def _check_finite(result: Any) -> None:
    numbers: list[Any] = [result.boxes, result.scores] if isinstance(result, Instances) else [result]
    if not all(np.isfinite(values).all() for values in numbers):
        raise UserError("the scores or boxes are not finite numbers; check the weights")


def _finish(engine: WindowEngine, image: _Image, outputs: Outputs, options: Options) -> None:
    """Writes the results of an image whose windows are all done."""
    record = Journal(image.directory, 0)
    with open_source(image.medium.path) as source:
        if engine.segments:
            with _canvases(engine, image, options) as (labels, scores):
                outputs.write_labels(image.medium, source, labels, scores, image.directory)
        else:
            outputs.write_objects(image.medium, source, image.plan, record.in_order(), image.directory)


def _sum_up(engine: WindowEngine, found: _Found, outputs: Outputs, out: Path) -> Summary:
    windows, skipped, failures, notes = 0, 0, list(found.failures), list(found.notes)
    for image in found.images:
        note = image.directory / NOTE
        notes += [note.read_text()] if note.exists() else []
        windows += len(image.plan.rows) * len(image.plan.columns)
        for entry in Journal(image.directory, 0).in_order():
            skipped += entry["skipped"]
            failures += [(f"{image.name}, {window}", why) for window, why in entry["failed"]]
    objects = None if engine.segments else outputs.join(image.directory for image in found.images)
    shutil.rmtree(out / "parts")
    return Summary(len(found.images), windows, skipped, objects, failures, notes)
