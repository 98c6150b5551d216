"""The option ``--stream`` of predict: images of any size as complete images."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from xcit_dense.cli.positionals import is_exported
from xcit_dense.cli.windows import open_large
from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from xcit_dense.inference.write import Summary


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Adds ``--stream`` and ``--shard``.

    Args:
        parser: The parser.
    """
    parser.add_argument(
        "--stream",
        action="store_true",
        help="segment images of any size as complete images at native resolution, strip by strip",
    )
    parser.add_argument(
        "--shard", action="store_true", help="with --stream, share each image between the processes of torchrun"
    )


def predict_by_streaming(args: argparse.Namespace) -> Summary | None:
    """Segments images of any size.

    Args:
        args: The parsed arguments of predict.

    Returns:
        The number of images, and the failures; None in processes other than rank 0.

    Raises:
        UserError: The model, an input or an option does not fit, or a result cannot be written.
    """
    _check_options(args)
    if args.shard:
        args.launcher = "pytorch"
    media, engine = open_large(args)

    from xcit_dense.mm.streaming.predict import stream_files

    return stream_files(engine, media, args.out, preview=not args.no_draw, shard=args.shard)


def _check_options(args: argparse.Namespace) -> None:
    if is_exported(args.words[0]):
        raise UserError(
            f"{args.words[0]} is an exported model, and --stream needs the model that it was exported from; write the "
            "checkpoint."
        )
    if args.window is not None:
        raise UserError("--stream computes the complete image, and --window computes windows; write one of them.")
    launchers = ("none", "pytorch") if args.shard else ("none",)
    if args.launcher not in launchers:
        raise UserError("--launcher has no meaning for --stream without --shard; write --shard, or leave it out.")
    for name, default in (("overlap", None), ("scale", None), ("scores", False), ("batch", 1)):
        if getattr(args, name) != default:
            raise UserError(f"--{name} has no meaning for --stream; leave it out, or write --window for --stream.")
    processes = int(os.environ.get("WORLD_SIZE", "0"))
    if args.shard and not processes:
        raise UserError(
            "--shard shares an image between several processes; start them with torchrun --nproc-per-node 2 -m "
            "xcit_dense predict ... --stream --shard."
        )
    if processes > 1 and not args.shard:
        raise UserError(f"There are {processes} processes; write --shard too, so that they share each image.")
    if args.resume:
        raise UserError("--stream starts an image again; leave --resume out, and name only the images that are left.")
