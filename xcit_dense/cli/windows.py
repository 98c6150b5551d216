"""The options of prediction by windows, which predict and test share, and what predict does with them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcit_dense.cli.exported import read_exported_arguments
from xcit_dense.cli.options import band_options, find_checkpoint, read_config_options, set_local_rank, start_mm
from xcit_dense.cli.positionals import is_exported, read_model_arguments
from xcit_dense.cli.results import report
from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from xcit_dense.inference.windows.exported import ExportedWindowEngine
    from xcit_dense.inference.windows.run import Summary
    from xcit_dense.media.inputs import Medium
    from xcit_dense.mm.inference.window_engine import MMWindowEngine


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Adds ``--window``, ``--overlap`` and ``--scale``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--window", type=int, metavar="N", help="predict windows of N x N pixels at native resolution, e.g. 1024"
    )
    parser.add_argument(
        "--overlap", type=int, metavar="M", help="pixels that neighbouring windows share; default a quarter of --window"
    )
    parser.add_argument(
        "--scale", type=float, metavar="S", help="enlarge or reduce each window for the model, e.g. 0.5; default 1"
    )


def window_options(args: argparse.Namespace, *more: str) -> dict[str, Any] | None:
    """Reads and checks the options of :func:`add_windows`.

    Args:
        args: The parsed arguments.
        *more: Further options that need ``--window``, by their names in ``args``.

    Returns:
        ``side``, ``overlap`` and ``scale``. None without ``--window``.

    Raises:
        UserError: A value is out of range, or an option needs ``--window``.
    """
    if args.window is None:
        for name in ("overlap", "scale", *more):
            if getattr(args, name) not in (None, False):
                raise UserError(f"--{name} is an option of windows; write --window too, for example --window 1024.")
        return None
    from xcit_dense.inference.windows.plan import check_scale, check_window, default_overlap

    overlap = default_overlap(args.window) if args.overlap is None else args.overlap
    check_window(args.window, overlap)
    scale = 1.0 if args.scale is None else args.scale
    check_scale(scale)
    return {"side": args.window, "overlap": overlap, "scale": scale}


def predict_by_windows(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Predicts by windows, and prints where the results are and what failed.

    Args:
        args: The parsed arguments of predict.
        options: From :func:`window_options`.

    Returns:
        The exit status.

    Raises:
        UserError: The model, an input or an option does not fit, or a result cannot be written.
    """
    scale: float = options["scale"]
    media, engine = _open_exported(args, scale) if is_exported(args.words[0]) else open_large(args, scale)

    from xcit_dense.inference.windows.run import Options, run

    chosen = Options(
        options["side"],
        options["overlap"],
        batch=args.batch,
        score_thr=args.score_thr,
        scores=args.scores,
        preview=not args.no_draw,
    )
    summary = run(engine, media, args.out, chosen, resume=args.resume)
    return _report(summary, args.out) if summary else 0


def open_large(args: argparse.Namespace, scale: float = 1.0) -> tuple[list[Medium], MMWindowEngine]:
    """Finds images of any size, and builds the model that predicts them.

    Args:
        args: The parsed arguments of predict.
        scale: The size of what the model sees over the size of the image.

    Returns:
        The images and the model.

    Raises:
        UserError: The model or an input does not fit.
    """
    positionals = read_model_arguments(args.words, takes_inputs=True)
    start_mm(args.device)

    from xcit_dense.media.inputs import find_media
    from xcit_dense.mm.inference.load import load_window_engine
    from xcit_dense.rasters.open import READERS

    set_local_rank(args)
    media = find_media(positionals.inputs, tuple(READERS))
    engine = load_window_engine(
        positionals.config,
        find_checkpoint(str(positionals.weights)),
        read_config_options(args.cfg_options),
        scale=scale,
        launcher=args.launcher,
        verbose=args.verbose,
        bands=band_options(args),
    )
    return media, engine


def _open_exported(args: argparse.Namespace, scale: float) -> tuple[list[Medium], ExportedWindowEngine]:
    """As :func:`open_large`, for an exported model. No MM library is needed."""
    path, inputs = read_exported_arguments(args)

    from xcit_dense.inference.exported import ExportedModel
    from xcit_dense.inference.windows.exported import ExportedWindowEngine
    from xcit_dense.media.inputs import find_media
    from xcit_dense.rasters.open import READERS

    media = find_media(inputs, tuple(READERS))
    return media, ExportedWindowEngine(ExportedModel(path), scale)


def _report(summary: Summary, out: Path) -> int:
    """Prints what a run by windows has found, where it is, and what failed. Returns the exit status."""
    for note in summary.notes:
        print(note)
    skipped = f", {summary.skipped} of them without data" if summary.skipped else ""
    found = "" if summary.objects is None else f", {summary.objects} objects"
    return report(f"{summary.images} images, {summary.windows} windows{skipped}{found}", out, summary.failures)
