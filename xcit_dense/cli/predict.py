"""Finds objects in images and videos, or segments them.

Examples:
    predict CONFIG WEIGHTS INPUT... --out DIR
    predict WORK_DIR INPUT... --out DIR             the config and the last checkpoint of a training
    predict coco/small_12_p16 INPUT... --out DIR    published weights, with their config
    predict model.onnx INPUT... --out DIR           a model that xcit-dense export has written

DIR receives pictures/ with what was found drawn over each image; for detection results.json and images.json in COCO's
format, for segmentation labels/ with a PNG of class indices for each image. DIR must not have results already.

    predict [CONFIG] WEIGHTS big.tif --window 1024 --out DIR    an image of any size, by windows at native resolution

Then DIR receives labels/ with GeoTIFFs, or objects/ with GeoJSON and COCO's JSON; and previews/.

    predict [CONFIG] WEIGHTS big.tif --stream --out DIR         a segmentor's labels of the complete image
    torchrun --nproc-per-node 2 -m xcit_dense predict [CONFIG] WEIGHTS big.tif --stream --shard --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xcit_dense.cli.exported import read_exported_arguments
from xcit_dense.cli.options import (
    CONFIG_HELP,
    WEIGHTS_HELP,
    add_bands,
    add_config_options,
    add_device,
    add_launcher,
    add_verbose,
    add_words,
    band_options,
    find_checkpoint,
    read_config_options,
    set_local_rank,
    start_mm,
)
from xcit_dense.cli.positionals import is_exported, read_model_arguments
from xcit_dense.cli.results import report
from xcit_dense.cli.streaming import add_stream, predict_by_streaming
from xcit_dense.cli.windows import add_windows, predict_by_windows, window_options
from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from xcit_dense.inference.model import Model
    from xcit_dense.inference.write import Summary
    from xcit_dense.media.inputs import Medium

SUMMARY = "find objects in images and videos, or segment them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    weights = WEIGHTS_HELP.format("coco/small_12_p16")
    inputs = "images, videos, directories or 'patterns/*.jpg'"
    explanation = f"CONFIG: {CONFIG_HELP}. WEIGHTS: {weights}. INPUT: {inputs}"
    add_words(parser, "[CONFIG] WEIGHTS INPUT", explanation, required="--out DIR")
    add_config_options(parser)
    add_device(parser)
    add_bands(parser, trains=False)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.3,
        metavar="S",
        help="draw objects of this score or more; with --window, merge and write only these; default 0.3",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="images of one size, or windows, at once; default 1"
    )
    parser.add_argument("--no-draw", action="store_true", help="write only results, without pictures")
    add_windows(parser)
    add_stream(parser)
    parser.add_argument("--scores", action="store_true", help="with --window, write the class scores too")
    parser.add_argument("--resume", action="store_true", help="go on with a run by windows that ended early")
    add_launcher(parser, ["none", "pytorch"])
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    """Predicts, and prints where the results are and what failed."""
    if args.batch < 1:
        raise UserError(f"--batch {args.batch} is not possible; write 1 or more.")
    if not 0 <= args.score_thr <= 1:
        raise UserError(f"--score-thr {args.score_thr} is not a score; write a number from 0 to 1.")
    if args.shard and not args.stream:
        raise UserError("--shard is an option of --stream; write --stream too.")
    if args.stream:
        summary = predict_by_streaming(args)
        status = _report(summary, args.out) if summary else 0
    else:
        windows = window_options(args, "scores", "resume")
        status = _predict_complete(args) if windows is None else predict_by_windows(args, windows)
    if args.launcher != "none":
        from xcit_dense.mm.runtime.launch import leave

        leave(status)
    sys.exit(status)


def _predict_complete(args: argparse.Namespace) -> int:
    """Predicts complete images. Returns the exit status."""
    model, media = _open_exported(args) if is_exported(args.words[0]) else _open(args)
    score_thr = None if args.no_draw else args.score_thr
    summary = model.predict_files(media, args.out, batch=args.batch, score_thr=score_thr)
    return _report(summary, args.out) if summary else 0


def _open(args: argparse.Namespace) -> tuple[Model, list[Medium]]:
    """Builds the model and finds its input."""
    positionals = read_model_arguments(args.words, takes_inputs=True)
    start_mm(args.device)

    from xcit_dense.media.inputs import find_media
    from xcit_dense.mm.inference.load import load_model

    set_local_rank(args)
    media = find_media(positionals.inputs)
    model = load_model(
        positionals.config,
        find_checkpoint(str(positionals.weights)),
        read_config_options(args.cfg_options),
        launcher=args.launcher,
        verbose=args.verbose,
        bands=band_options(args),
    )
    return model, media


def _open_exported(args: argparse.Namespace) -> tuple[Model, list[Medium]]:
    """Opens an exported model and finds its input. No MM library is needed."""
    path, inputs = read_exported_arguments(args)

    from xcit_dense.inference.model import open_exported
    from xcit_dense.media.inputs import find_media

    media = find_media(inputs)
    return open_exported(path), media


def _report(summary: Summary, out: Path) -> int:
    """Prints what a run has found, where it is, and what failed. Returns the exit status."""
    found = "" if summary.objects is None else f", {summary.objects} objects of any score"
    return report(f"{summary.images} images{found}", out, summary.failures)
