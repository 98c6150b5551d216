"""Trains a detector or a segmentor.

CONFIG is a config file, the name of a shipped config such as mask_rcnn_xcit_s12, or a work directory with a config.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xcit_dense.cli.data_check import check_data
from xcit_dense.cli.options import (
    CONFIG_HELP,
    add_bands,
    add_own_data,
    add_run_options,
    add_verbose,
    add_words,
    find_checkpoint,
    make_config,
    start_mm,
)
from xcit_dense.cli.positionals import read_config_argument

SUMMARY = "train a detector or a segmentor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    add_words(parser, "CONFIG", CONFIG_HELP)
    add_run_options(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from CHECKPOINT, or from the last intact one in the work directory; begin if there is none",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, where there is a GPU")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size of all processes"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="images per step and process; scales the learning rate with it"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="length of the training; scales the learning rate's schedule with it"
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="the same for a config that counts iterations")
    add_own_data(parser)
    add_bands(parser, trains=True)
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="open every image of the data to check it, draw what is wrong to WORK_DIR/check, and do not train",
    )
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    """Trains."""
    train(args)

    from xcit_dense.mm.runtime.launch import leave

    leave()


def train(args: argparse.Namespace) -> Path:
    """Trains, and does not end the process.

    Args:
        args: With the options of :func:`add_arguments`.

    Returns:
        The work directory.

    Raises:
        UserError: Something in the config, the data or the options does not fit.
    """
    positionals = read_config_argument(args.words)
    start_mm(args.device)

    from xcit_dense.datasets.checks import SAMPLE
    from xcit_dense.mm.config.length import set_length
    from xcit_dense.mm.config.load import scale_rate
    from xcit_dense.mm.config.own_data import describe_data
    from xcit_dense.mm.runtime.launch import make_runner
    from xcit_dense.utils.ranks import is_local_rank_zero
    from xcit_dense.weights.work_dir import last_intact_checkpoint

    config = make_config(args, positionals, ("train_dataloader", "val_dataloader"), weights=not args.check_data)
    set_length(config, args.epochs, args.iterations)
    if args.auto_scale_lr or args.batch is not None:
        scale_rate(config, args.batch)
    checkpoint = None
    if args.resume:
        checkpoint = last_intact_checkpoint(config.work_dir) if args.resume == "auto" else find_checkpoint(args.resume)
        if checkpoint is None and is_local_rank_zero():
            print(f"No intact checkpoint in {config.work_dir} to continue from; training begins.", flush=True)
    if is_local_rank_zero():
        print(*describe_data(config), sep="\n")
        limit = None if args.check_data else SAMPLE
        own = args.classes is not None
        draw_to = Path(config.work_dir, "check") if args.check_data else None
        check_data(config, ("train_dataloader", "val_dataloader"), limit, own, draw_to)
    if args.check_data:
        return Path(config.work_dir)
    if args.amp:
        config.optim_wrapper.type = "AutoAmpOptimWrapper"

    make_runner(config, resume_from=checkpoint, verbose=args.verbose).train()
    return Path(config.work_dir)
