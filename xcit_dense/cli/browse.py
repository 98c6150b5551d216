"""Draws what a training sees, after augmentation, with the ground truth over each image.

Examples:
    browse CONFIG --out DIR

DIR must be empty or not exist.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from xcit_dense.cli.options import (
    CONFIG_HELP,
    add_config_options,
    add_data_root,
    add_own_data,
    add_verbose,
    add_words,
    read_config_options,
    read_own_data,
    start_mm,
)
from xcit_dense.cli.positionals import read_config_argument
from xcit_dense.errors import UserError

SUMMARY = "draw what a training sees"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    add_words(parser, "CONFIG", CONFIG_HELP, required="--out DIR")
    add_config_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--number", type=int, default=16, metavar="N", help="how many images; default 16")
    parser.add_argument("--seed", type=int, default=0, help="of order and augmentation; default 0")
    add_data_root(parser)
    add_own_data(parser, has_seed=True)
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    """Draws."""
    if args.number < 1:
        raise UserError(f"--number {args.number} is not possible; write 1 or more.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"--out {args.out} is not an empty directory; name another.")
    positionals = read_config_argument(args.words)
    start_mm()

    from xcit_dense.media.images import write_image
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.inference.browse import browse

    options = read_config_options(args.cfg_options)
    config = load_config(positionals.config, options, args.data_root, **read_own_data(args))
    check_config(config, ("train_dataloader",), weights=False)
    drawings = browse(config, args.seed, verbose=args.verbose)
    for number, (name, drawing) in enumerate(islice(drawings, args.number), start=1):
        path = args.out / f"{number:04d}_{Path(name).stem}.jpg"
        write_image(path, drawing)
        print(path, flush=True)
