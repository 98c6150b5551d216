"""Writes a data set of any recognised format as clean COCO files, or as images and label maps.

The images are copied. With --link they are symbolic links to the images of SRC.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xcit_dense.cli.options import add_colours

SUMMARY = "write data of any format as clean COCO files, or as images and label maps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.add_argument("source", metavar="SRC", type=Path, help="data directory, or a .yaml, .json, .csv or .zip file")
    parser.add_argument("target", metavar="DST", type=Path, help="directory to make; it must be empty or not exist")
    parser.add_argument(
        "--to",
        choices=["coco", "labels"],
        help="what to write; by default labels if the data consists of label images, otherwise coco",
    )
    parser.add_argument(
        "--classes",
        metavar="auto|A,B,C",
        default="auto",
        help="the names of the values in label images, or the categories to keep; by default those of the data",
    )
    parser.add_argument(
        "--ignore-zero",
        action="store_true",
        help="0 in label images marks pixels without a label, and classes begin with 1",
    )
    parser.add_argument("--link", action="store_true", help="link to the images instead of copying them")
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="split this share of the training images off for validation, e.g. 0.1",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of --val-fraction's choice; default 0")
    add_colours(parser)


def run(args: argparse.Namespace) -> None:
    """Converts, and prints what was recognised and written."""
    from xcit_dense.datasets.convert import convert_data
    from xcit_dense.datasets.formats.validation import Validation

    validation = None if args.val_fraction is None else Validation(args.val_fraction, args.seed)
    colours = Path(args.colours) if args.colours else None
    classes = None if args.classes == "auto" else [name.strip() for name in args.classes.split(",") if name.strip()]
    sentences = convert_data(
        args.source.expanduser(),
        args.target,
        args.to,
        classes=classes,
        ignore_zero=args.ignore_zero,
        validation=validation,
        colours=colours,
        link=args.link,
    )
    print(*sentences, sep="\n")
    print(f"Written to {args.target}; train on it with --data-root {args.target} --classes auto")
