"""The option ``--stream`` of predict: images of any size as complete images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xcit_dense.cli.positionals import is_exported
from xcit_dense.cli.windows import open_large
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
    media, engine = open_large(args)

    from xcit_dense.mm.streaming.predict import stream_files

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
