"""The option ``--stream`` of predict: images of any size as complete images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xcit_dense.cli.options import band_options, find_checkpoint, read_config_options, start_mm
from xcit_dense.cli.positionals import is_exported, read_model_arguments
from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from xcit_dense.inference.write import Summary


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Adds ``--stream``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--stream",
        action="store_true",
        help="segment images of any size as complete images at native resolution, strip by strip",
    )


def predict_by_streaming(args: argparse.Namespace) -> Summary:
    """Segments images of any size.

    Args:
        args: The parsed arguments of predict.

    Returns:
        The number of images, and the failures.

    Raises:
        UserError: The model, an input or an option does not fit, or a result cannot be written.
    """
    _check_options(args)
    positionals = read_model_arguments(args.words, takes_inputs=True)
    start_mm(args.device)

    from xcit_dense.media.inputs import find_media
    from xcit_dense.mm.inference.load import load_window_engine
    from xcit_dense.mm.streaming.predict import stream_files
    from xcit_dense.rasters.open import READERS

    media = find_media(positionals.inputs, tuple(READERS))
    engine = load_window_engine(
        positionals.config,
        find_checkpoint(str(positionals.weights)),
        read_config_options(args.cfg_options),
        verbose=args.verbose,
        bands=band_options(args),
    )
    return stream_files(engine, media, args.out, preview=not args.no_draw)


def _check_options(args: argparse.Namespace) -> None:
    if is_exported(args.words[0]):
        raise UserError(
            f"{args.words[0]} is an exported model, and --stream needs the model that it was exported from; write the "
            "checkpoint."
        )
    if args.window is not None:
        raise UserError("--stream computes the complete image, and --window computes windows; write one of them.")
    for name, default in (("overlap", None), ("scale", None), ("scores", False), ("batch", 1), ("launcher", "none")):
        if getattr(args, name) != default:
            raise UserError(f"--{name} has no meaning for --stream; leave it out, or write --window for --stream.")
    if args.resume:
        raise UserError("--stream starts an image again; leave --resume out, and name only the images that are left.")
