"""The options of prediction by windows, which predict and test share, and what predict does with them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcit_dense.cli.options import band_options, find_checkpoint, read_config_options, set_local_rank, start_mm
from xcit_dense.cli.positionals import is_exported, read_model_arguments
from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from xcit_dense.inference.windows.run import Summary
    from xcit_dense.media.inputs import Medium
    from xcit_dense.mm.inference.window_engine import MMWindowEngine

_OVERLAP = 8  # the default overlap is an eighth of the window


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Adds ``--window``, ``--overlap`` and ``--scale``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--window", type=int, metavar="N", help="predict windows of N x N pixels at native resolution, e.g. 1024"
    )
    parser.add_argument(
        "--overlap", type=int, metavar="M", help="pixels that neighbouring windows share; default an eighth of --window"
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
    from xcit_dense.inference.windows.plan import check_window

    overlap = args.window // _OVERLAP if args.overlap is None else args.overlap
    check_window(args.window, overlap)
    scale = 1.0 if args.scale is None else args.scale
    if not 0.01 <= scale <= 100:
        raise UserError(f"--scale {scale} is not possible; write a number from 0.01 to 100, for example 0.5.")
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
    if is_exported(args.words[0]):
        raise UserError(
            f"{args.words[0]} is an exported model, and windows need the model that it was exported from; leave "
            "--window out, or write the checkpoint."
        )
    media, engine = open_large(args, options["scale"])

    from xcit_dense.inference.windows.run import Options, run

    if args.scores and not engine.segments:
        raise UserError("--scores writes the class scores of a segmentor, and this model is a detector; leave it out.")
    chosen = Options(
        options["side"],
        options["overlap"],
        batch=args.batch,
        score_thr=args.score_thr,
        scores=args.scores,
        preview=not args.no_draw,
    )
    summary = run(engine, media, args.out, chosen, resume=args.resume)
    return report(summary, args.out) if summary else 0


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


def report(summary: Summary, out: Path) -> int:
    """Prints what a run by windows has found, where it is, and what failed.

    Args:
        summary: The result of the run.
        out: The output directory.

    Returns:
        The exit status.
    """
    for note in summary.notes:
        print(note)
    skipped = f", {summary.skipped} of them without data" if summary.skipped else ""
    found = "" if summary.objects is None else f", {summary.objects} objects"
    print(f"{summary.images} images, {summary.windows} windows{skipped}{found}")
    for name in ("labels", "objects", "scores", "results.json", "images.json", "previews"):
        if (out / name).exists():
            print(out / name)
    if not summary.failures:
        return 0
    print(f"error: {len(summary.failures)} images or windows failed:", file=sys.stderr)
    for name, why in summary.failures:
        print(f"  {name}: {why}", file=sys.stderr)
    return 1
