"""Writes the weights of a checkpoint of any dialect to a new file.

The rest of the checkpoint is not kept: the optimizer's state, and meta such as class names.
"""

from __future__ import annotations

import argparse

from xcit_dense.cli.options import WEIGHTS_HELP

SUMMARY = "write the weights of a checkpoint of any dialect to a new file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.add_argument("checkpoint", metavar="IN", help=WEIGHTS_HELP.format("coco/small_12_p16"))
    parser.add_argument("out", metavar="OUT", help="file to write, .safetensors or .pth")
    parser.add_argument("--whole", action="store_true", help="keep neck and heads; the default keeps the backbone only")


def run(args: argparse.Namespace) -> None:
    """Converts, and prints what was written."""
    from xcit_dense.models.convert import convert_checkpoint

    report = convert_checkpoint(args.checkpoint, args.out, args.whole)
    print(f"{args.out}: {report}")
