"""Cuts chips for training out of a large image and its label map, or polygons in GeoJSON.

Training reads the chips with --data-root DIR. Neighbouring chips are in one split: blocks of 4 x 4 chips are for
training or for validation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "cut training chips out of a large image and its label map or polygons"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.add_argument("image", metavar="IMAGE", type=Path, help="the image: GeoTIFF, JPEG 2000, Zarr, slide, PNG")
    parser.add_argument(
        "labels", metavar="LABELS", type=Path, help="the label map, with the size of the image; or polygons (.geojson)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory to make")
    parser.add_argument("--size", metavar="PX", type=int, default=512, help="height and width; default %(default)s")
    parser.add_argument("--overlap", metavar="PX", type=int, default=0, help="of neighbours; default %(default)s")
    parser.add_argument(
        "--val-share", metavar="F", type=float, default=0.2, help="share of the blocks for validation; default 0.2"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="chooses the blocks; default %(default)s")
    parser.add_argument("--classes", metavar="A,B,C", help="names of the classes; default those in LABELS")
    parser.add_argument("--class-property", metavar="NAME", help="property of polygons with the class; default class")
    parser.add_argument(
        "--no-background",
        action="store_true",
        help="pixels outside of all polygons have no label; default the class background",
    )


def run(args: argparse.Namespace) -> None:
    """Cuts the chips, and prints how many were written and skipped."""
    from xcit_dense.datasets.chips import cut_chips

    classes = [name.strip() for name in args.classes.split(",")] if args.classes else None
    counts = cut_chips(
        args.image.expanduser(),
        args.labels.expanduser(),
        args.out,
        size=args.size,
        overlap=args.overlap,
        val_share=args.val_share,
        seed=args.seed,
        classes=classes,
        class_property=args.class_property,
        background=not args.no_background,
    )
    for note in counts.notes:
        print(note)
    print(f"{counts.train} chips for training, {counts.val} for validation")
    print(f"Skipped: {counts.no_data} windows without data, {counts.no_labels} without labels")
    print(f"Written to {args.out}; train on it with --data-root {args.out} --classes auto")
