"""Draws what a backbone sees in images.

Examples:
    visualize WEIGHTS IMAGE... --out DIR

For each image DIR receives NAME_levels.png, the four levels in the colours of their three principal components; and for
each block that was asked for NAME_block11.png, the attention of its heads, by channels and by places. With
--class-attention DIR also receives NAME_class_attention.png, the positions at which the class token of a classifier
looks. No MM library is needed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from xcit_dense.cli.options import WEIGHTS_HELP, add_device, add_words, choose_device
from xcit_dense.cli.shipped_configs import is_config
from xcit_dense.errors import UserError

SUMMARY = "draw what a backbone sees in images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    explanation = f"WEIGHTS: {WEIGHTS_HELP.format('small_12_p16_384_dist')}. IMAGE: images"
    add_words(parser, "WEIGHTS IMAGE", explanation, required="--out DIR")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--variant", help="the variant of the weights; by default their name or shapes decide")
    parser.add_argument(
        "--size", type=int, metavar="PX", help="scale the longer side to so many pixels; default its own, up to 1024"
    )
    parser.add_argument(
        "--block", nargs="+", type=int, metavar="N", help="blocks of an XCiT, counted from 0; default the last"
    )
    parser.add_argument(
        "--class-attention", action="store_true", help="draw the class attention of a classifier or of DINO too"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Draws. Images that cannot be read are named at the end."""
    weights, *images = args.words
    if is_config(weights):
        raise UserError(f"{weights} is a config, and visualize takes none; write WEIGHTS IMAGE... .")
    if not images:
        raise UserError(f"No image after {weights}; write images after the weights.")
    choose_device(args.device)
    paths = [Path(image) for image in images]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"No image at {', '.join(missing)}; check the path.")
    twins = [name for name, count in Counter(path.stem for path in paths).items() if count > 1]
    if twins:
        raise UserError(f"Several images are called {', '.join(twins)}; give them an --out each.")

    import torch

    from xcit_dense.visualization.class_attention import load_class_attention
    from xcit_dense.visualization.features import ImageError, load_backbone, visualize

    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    backbone, random = load_backbone(weights, args.variant)
    backbone.to(device)
    layers = load_class_attention(weights).to(device) if args.class_attention else None
    unread: list[str] = []
    for path in paths:
        try:
            for drawn in visualize(backbone, path, args.out, args.size, args.block, random, layers):
                print(drawn, flush=True)
        except ImageError as error:
            unread.append(str(error))
    if unread:
        raise UserError(" ".join(unread))
