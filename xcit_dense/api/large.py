"""``xcit_dense.predict_large``: images of any size, predicted by windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xcit_dense.api.loading import load
from xcit_dense.errors import UserError
from xcit_dense.inference.model import Model

if TYPE_CHECKING:
    from xcit_dense.inference.windows.engine import WindowEngine
    from xcit_dense.inference.windows.run import Summary


def predict_large(
    model: Model | str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    window: int = 1024,
    overlap: int | None = None,
    scale: float = 1.0,
    batch: int = 1,
    score_thr: float = 0.3,
    scores: bool = False,
    preview: bool = True,
    resume: bool = False,
) -> Summary | None:
    """Predicts images of any size by windows and writes the results, as ``xcit-dense predict --window`` does.

    The images are never completely in memory. A failure of one window or image does not end the run.

    Args:
        model: What :func:`xcit_dense.load` returns, or what it takes.
        images: Images, directories and patterns: one, or several.
        out: The output directory. It must not contain results, except with ``resume``.
        window: The side of a window in pixels of the image.
        overlap: The number of pixels that neighbouring windows share. By default a quarter of the window.
        scale: The size of what the model sees over the size of the window, from 0.01 to 100.
        batch: The largest number of windows that the model predicts at once.
        score_thr: The lowest score of the objects that are merged and written, in [0, 1].
        scores: Write the class scores of a segmentor too.
        preview: Write a small drawing of each image.
        resume: Go on with a run that ended early.

    Returns:
        The numbers of images, windows and objects, what failed, and notes. None on ranks other than 0 if several
        processes have joined each other through ``torch.distributed``.

    Raises:
        UserError: An option is out of range, an image is missing, the output directory has other results, or a result
            cannot be written. Also as for :func:`xcit_dense.load`.
        MissingLibraryError: A library of the extra ``[large]`` is not installed.

    Example::

        import xcit_dense

        summary = xcit_dense.predict_large("work_dirs/mine", "big.tif", "mapped", window=512, overlap=128)
        print(summary.windows, summary.failures)  # mapped/labels/big.tif has the labels
    """
    from xcit_dense.inference.windows.plan import check_scale, default_overlap
    from xcit_dense.inference.windows.run import Options, run
    from xcit_dense.media.inputs import find_media
    from xcit_dense.rasters.open import READERS

    if batch < 1:
        raise UserError(f"batch={batch} is not possible; write 1 or more.")
    if not 0 <= score_thr <= 1:
        raise UserError(f"score_thr={score_thr} is not a score; write a number from 0 to 1.")
    check_scale(scale)
    options = Options(
        window,
        default_overlap(window) if overlap is None else overlap,
        batch=batch,
        score_thr=score_thr,
        scores=scores,
        preview=preview,
    )
    inputs = [images] if isinstance(images, str | Path) else images
    media = find_media([str(Path(one).expanduser()) for one in inputs], tuple(READERS))
    engine = _window_engine(model if isinstance(model, Model) else load(model), scale)
    return run(engine, media, Path(out), options, resume=resume)


def _window_engine(model: Model, scale: float) -> WindowEngine:
    """Makes a loaded model predict windows."""
    from xcit_dense.inference.exported import ExportedModel
    from xcit_dense.inference.windows.exported import ExportedWindowEngine

    if isinstance(model.engine, ExportedModel):
        return ExportedWindowEngine(model.engine, scale)
    from xcit_dense.mm.inference.predict import Predictor
    from xcit_dense.mm.inference.window_engine import by_windows

    if isinstance(model.engine, Predictor):
        return by_windows(model.engine, scale)
    raise UserError(
        f"{type(model.engine).__name__} does not predict windows; give what xcit_dense.load returns, or call "
        "xcit_dense.inference.windows.run.run with a WindowEngine."
    )
