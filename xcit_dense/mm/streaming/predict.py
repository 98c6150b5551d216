"""Segments files of any size. The labels are those of the model for the complete image at its native resolution."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.inference.stream import describe
from xcit_dense.inference.windows.blend import empty_label
from xcit_dense.inference.windows.outputs import NOTE, Outputs
from xcit_dense.inference.windows.run import OUTPUTS
from xcit_dense.inference.write import Summary, make_empty
from xcit_dense.media.inputs import Medium
from xcit_dense.mm.bands import LoadBands
from xcit_dense.mm.inference.predict import takes_bgr
from xcit_dense.mm.inference.window_engine import MMWindowEngine
from xcit_dense.mm.streaming.segmentor import map_logits, read_labels
from xcit_dense.models.xcit import XCiT
from xcit_dense.rasters.canvas import Canvas, check_space
from xcit_dense.rasters.open import open_source
from xcit_dense.rasters.source import RasterError, Source
from xcit_dense.rasters.window import Window, blocks_of_rows
from xcit_dense.streaming.checks import check_eval, check_parts
from xcit_dense.streaming.levels import level_shapes
from xcit_dense.streaming.maps import needed_rows
from xcit_dense.streaming.rows import SourceRows
from xcit_dense.streaming.storage import format_size
from xcit_dense.streaming.stream import stored_bytes, stream
from xcit_dense.utils.processes import in_all, on_rank_zero, rank_and_world
from xcit_dense.utils.progress import track

TILE_MEMORY = 2**29
"""Bytes that the maps of the neck and the head take for a tile of the image, about."""

_STEPS = ("Resize", "PackSegInputs")  # the only Resize of an engine for windows keeps the size


def stream_files(
    engine: MMWindowEngine, media: Sequence[Medium], out: Path, *, preview: bool = True, shard: bool = False
) -> Summary | None:
    """Segments images, one after the other, and writes a label map of each one. A failure does not end the run.

    The memory does not grow with the image. The disk of ``out`` has the token maps and the labels of the image that is
    being computed. The required space is printed before an image, and checked.

    Args:
        engine: The model with its preprocessing, at the scale 1.
        media: The images.
        out: The output directory. It must not contain results.
        preview: Write a small drawing of each image.
        shard: Whether the processes that have joined each other share each image. Each process computes a band of rows.

    Returns:
        The number of images, and the failures; None in processes other than rank 0.

    Raises:
        UserError: The model cannot be computed by windows, an input is a video, or ``out`` contains results.
    """
    videos = [medium.name for medium in media if medium.is_video]
    if videos:
        raise UserError(f"{videos[0]} is a video; leave --stream out for videos, whose frames are small.")
    check_engine(engine)
    on_rank_zero(lambda: make_empty(out, OUTPUTS))
    run = _Run(engine, out, Outputs(engine, out, preview), shard)
    failures = []
    for number, medium in enumerate(media):
        part = out / "parts" / f"{number}.npy"
        try:
            run.segment(medium, part)
        except (UserError, OSError) as error:
            failures.append((medium.name, describe(error)))
        on_rank_zero(partial(_tidy, part))
    on_rank_zero(lambda: shutil.rmtree(out / "parts"))
    return Summary(len(media) - len(failures), None, failures) if rank_and_world()[0] == 0 else None


def _tidy(part: Path) -> None:
    """Removes what is left of an image, and prints the note."""
    part.unlink(missing_ok=True)
    note = part.parent / NOTE
    if note.exists():
        print(note.read_text(), file=sys.stderr)
        note.unlink()


def check_engine(engine: MMWindowEngine) -> None:
    """Checks that a model and its preprocessing can be computed by windows, before an image is read.

    Args:
        engine: The model with its preprocessing.

    Raises:
        UserError: A part cannot be computed by windows. The message names the part.
    """
    if not engine.segments:
        raise UserError("--stream segments images, and this model is a detector; predict by windows: --window 1024.")
    predictor = engine.predictor
    for step in getattr(predictor.prepare, "transforms", ()):
        name = type(step).__name__
        if name not in _STEPS:
            raise UserError(
                f"The config's test pipeline has the step {name}, and --stream only normalises images; write a "
                "pipeline without this step, or predict by windows: --window 1024."
            )
    if getattr(predictor.load, "color_type", "color") != "color":
        raise UserError("--stream reads colour images, and the config reads grey images; write --bands 1.")
    model: Any = predictor.model
    check_eval(check_parts(model.backbone))
    map_logits(model, _Shapes.of(model.backbone, 64, 64), 64, 64)


def read_rows(engine: MMWindowEngine, source: Source) -> SourceRows:
    """Makes an image that is read by rows, normalised as the model's data preprocessor normalises images.

    Args:
        engine: The model with its preprocessing.
        source: The opened image.

    Returns:
        The image. A read raises an error if the image has values that are not finite.

    Raises:
        UserError: The image does not have the bands or the type of the model.
    """
    model: Any = engine.predictor.model
    preprocessor = model.data_preprocessor
    bands = engine.choose_bands(source)
    if not isinstance(engine.predictor.load, LoadBands) and takes_bgr(preprocessor):
        bands = bands[::-1]  # the libraries read images as BGR
    mean, std = [0.0] * len(bands), [1.0] * len(bands)
    if preprocessor._enable_normalize:
        mean, std = ([*values.flatten().tolist()] for values in (preprocessor.mean, preprocessor.std))
        mean, std = (values * len(bands) if len(values) == 1 else values for values in (mean, std))
    return _FiniteRows(source, mean, std, bands)


class _Run:
    """A run over images.

    Args:
        engine: The model with its preprocessing.
        out: The output directory.
        outputs: Writes the results.
        shard: Whether the processes share each image.
    """

    def __init__(self, engine: MMWindowEngine, out: Path, outputs: Outputs, shard: bool) -> None:
        self._engine = engine
        self._model: Any = engine.predictor.model
        self._out = out
        self._outputs = outputs
        self._shard = shard
        self._empty = empty_label(len(engine.classes))
        self._dtype: Any = np.min_scalar_type(self._empty)
        self._group: Any = None
        if shard and next(self._model.parameters()).is_cuda:
            # The processes have joined each other through gloo, which does not send tensors of GPUs.
            self._group = torch.distributed.new_group(backend="nccl", timeout=timedelta(days=30))

    def segment(self, medium: Medium, part: Path) -> None:
        """Segments an image, and writes the results.

        Args:
            medium: The image.
            part: The file for the labels until the image is done.

        Raises:
            UserError: The image, the model or the disk does not fit in one of the processes.
        """
        with in_all(lambda: open_source(medium.path)) as source:
            rows = in_all(lambda: read_rows(self._engine, source))
            on_rank_zero(lambda: self._make_canvas(source, part, medium))
            with Canvas.reopen(part, source.height, source.width, self._dtype) as labels:
                in_all(lambda: self._compute(source, rows, labels))
                on_rank_zero(lambda: self._outputs.write_labels(medium, source, labels, None, part.parent))

    def _make_canvas(self, source: Source, path: Path, medium: Medium) -> None:
        """Makes the label map of an image, after a check of the disk."""
        height, width = source.height, source.width
        needed = stored_bytes(self._model.backbone, height, width) + height * width * self._dtype.itemsize
        print(
            f"{medium.name}: {width} x {height} pixels, {format_size(needed)} of the disk until it is done", flush=True
        )
        check_space(path.parent, needed)
        Canvas.create(path, height, width, self._dtype, fill=self._empty).close()

    def _compute(self, source: Source, rows: SourceRows, canvas: Canvas) -> None:
        """Computes the label map of an image, or the rows of this process."""
        model, height, width = self._model, source.height, source.width
        options: dict[str, Any] = {"directory": self._out, "progress": True}
        with stream(model.backbone, rows, shard=self._shard, group=self._group, **options) as levels, torch.no_grad():
            logits = map_logits(model, levels, height, width, levels.bands)
            levels.fetch(needed_rows(logits, levels.bands, len(levels.shapes)))
            own = levels.bands.own_rows(height)
            tiles = list(blocks_of_rows(own, width, logits.choose_tile(TILE_MEMORY)))
            with track("tiles", len(tiles)) as count:
                for tile in tiles:
                    labels = read_labels(model, logits, tile).cpu().numpy()
                    labels[~source.read_valid(tile)] = self._empty
                    canvas.write(tile, labels)
                    count()


class _FiniteRows(SourceRows):
    """Rows of an image without values that are not finite. One NaN would make all labels of an image invalid."""

    def read(self, top: int, bottom: int) -> Tensor:
        """Reads rows, (1, number of bands, bottom - top, width)."""
        pixels = super().read(top, bottom)
        invalid = int((~pixels.isfinite()).any(dim=1).sum())
        if invalid:
            raise RasterError(
                f"{self.source.path} has {invalid:,} pixels with values that are not finite in the rows {top} to "
                f"{bottom - 1}; give these pixels a number, or declare their value as nodata."
            )
        return pixels


@dataclass(frozen=True)
class _Shapes:
    """The shapes of levels that are not computed."""

    shapes: Sequence[tuple[int, int, int]]

    @classmethod
    def of(cls, backbone: XCiT, height: int, width: int) -> _Shapes:
        p = backbone.patch_size
        return cls(level_shapes(backbone, -(-height // p), -(-width // p)))

    def read(self, level: int, window: Window) -> Tensor:
        """Refuses, because there are no values."""
        raise UserError(f"Level {level} has no values; stream the backbone first.")
