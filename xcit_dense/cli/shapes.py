"""Writes the embedded data set: images of shapes in the layouts of COCO and ADE20K."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write the embedded data set, to train without a download"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.add_argument("root", metavar="DIR", type=Path, help="directory to make")
    parser.add_argument("--train", metavar="N", type=int, default=400, help="training images; default %(default)s")
    parser.add_argument("--val", metavar="N", type=int, default=100, help="held-out images; default %(default)s")
    parser.add_argument("--size", metavar="PX", type=int, default=256, help="width and height; default %(default)s")
    parser.add_argument(
        "--geotiff",
        metavar="PX",
        type=int,
        help="write instead one GeoTIFF with this width and height, map.tif, and its label map, map_labels.tif",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="picks the images; default %(default)s")


def run(args: argparse.Namespace) -> None:
    """Writes the data set, or the large image."""
    import logging

    if args.geotiff is not None:
        from xcit_dense.datasets.shapes.map import write_map

        print(*write_map(args.root, args.geotiff, scene=args.size, seed=args.seed), sep="\n")
        return
    from xcit_dense.datasets.shapes import write_shapes

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_shapes(args.root, train=args.train, val=args.val, size=args.size, seed=args.seed)
