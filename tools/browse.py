"""Draws what a training really sees, after augmentation: python tools/browse.py CONFIG --out DIR.

Ground truth is drawn over each picture. DIR must be empty or not there.
"""

from itertools import islice
from pathlib import Path

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import add_data_root, add_own_data, make_config_parser
from xcit_dense.errors import UserError


@exit_with_sentence
def main() -> None:
    """Reads the command line and draws."""
    parser = make_config_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--number", type=int, default=16, metavar="N", help="how many pictures; default 16")
    parser.add_argument("--seed", type=int, default=0, help="of order and augmentation; default 0")
    add_data_root(parser)
    add_own_data(parser)
    args = parser.parse_args()
    if args.number < 1:
        raise UserError(f"--number {args.number} is not possible; write 1 or more.")

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"--out {args.out} is not an empty directory; name another.")

    from xcit_dense.media.images import write_image
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.inference.browse import browse

    config = load_config(args.config, args.cfg_options, args.data_root, args.classes, args.ignore_zero)
    check_config(config, ("train_dataloader",), weights=False)
    for number, (name, drawing) in enumerate(islice(browse(config, args.seed), args.number), start=1):
        path = args.out / f"{number:04d}_{Path(name).stem}.jpg"
        write_image(path, drawing)
        print(path, flush=True)


if __name__ == "__main__":
    main()
