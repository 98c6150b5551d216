"""Draws what a backbone sees in pictures: python tools/visualize.py WEIGHTS IMAGE... --out DIR.

For each picture: NAME_levels.png, the four levels in the colours of their three principal components; and for each
block asked for NAME_block11.png, the attention of its heads, by channels and by places. No MM library is needed.
"""

import argparse
from collections import Counter
from pathlib import Path

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import choose_device, find_checkpoint
from xcit_dense.errors import UserError


@exit_with_sentence
def main() -> None:
    """Reads the command line and draws; pictures that cannot be read are named at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "weights", help="a checkpoint, a work directory, an address, or a name as small_12_p16_384_dist"
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="pictures")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="directory for what is drawn")
    parser.add_argument("--variant", help="that of the weights; by default their shapes tell it")
    parser.add_argument(
        "--size", type=int, metavar="PX", help="scale the longer side to so many pixels; default its own, up to 1024"
    )
    parser.add_argument(
        "--block", nargs="+", type=int, default=[-1], metavar="N", help="blocks, counted from 0; default the last"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to run")
    args = parser.parse_args()

    choose_device(args.device)
    missing = [str(path) for path in args.images if not path.is_file()]
    if missing:
        raise UserError(f"No picture at {', '.join(missing)}; check the path.")
    twins = [name for name, count in Counter(path.stem for path in args.images).items() if count > 1]
    if twins:
        raise UserError(f"Several pictures are called {', '.join(twins)}; give them an --out each.")

    import torch

    from xcit_dense.visualization.features import ImageError, load_backbone, visualize

    backbone, random = load_backbone(find_checkpoint(args.weights), args.variant)
    backbone.to("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    unread: list[str] = []
    for path in args.images:
        try:
            for drawn in visualize(backbone, path, args.out, args.size, args.block, random):
                print(drawn, flush=True)
        except ImageError as error:
            unread.append(str(error))
    if unread:
        raise UserError(" ".join(unread))


if __name__ == "__main__":
    main()
