"""Writes the embedded data set: pictures of shapes in COCO's and in ADE20K's layout."""

import argparse
import logging
from pathlib import Path

from xcit_dense.cli.exit import exit_with_sentence


@exit_with_sentence
def main() -> None:
    """Reads the command line and writes the data set it describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("root", metavar="DIR", type=Path, help="directory to make")
    parser.add_argument("--train", metavar="N", type=int, default=400, help="training pictures")
    parser.add_argument("--val", metavar="N", type=int, default=100, help="held-out pictures")
    parser.add_argument("--size", metavar="PX", type=int, default=256, help="width and height")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="picks the pictures")
    arguments = parser.parse_args()

    from xcit_dense.datasets.shapes import write_shapes

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_shapes(**vars(arguments))


if __name__ == "__main__":
    main()
