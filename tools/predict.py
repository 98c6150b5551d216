"""Finds objects in pictures and videos, or segments them: python tools/predict.py CONFIG WEIGHTS INPUT... --out DIR.

DIR receives pictures/ with what was found drawn over each picture; for detection results.json and images.json in COCO's
format, for segmentation labels/ with a PNG of class indices each. DIR must not hold results already.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import add_launcher, find_checkpoint, make_config_parser, make_device_parser, set_local_rank
from xcit_dense.errors import UserError

if TYPE_CHECKING:
    from xcit_dense.mm.inference.predict import Summary


@exit_with_sentence
def main() -> None:
    """Reads the command line, predicts, and says where everything lies and what failed."""
    parser = make_config_parser(__doc__, [make_device_parser()])
    parser.add_argument("weights", help="a checkpoint, a training's work directory, an address or xcit://NAME")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, videos, directories or 'patterns/*.jpg'")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, metavar="S", help="draw objects of this score or more; default 0.3"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="pictures of one size at once; default 1")
    parser.add_argument("--no-draw", action="store_true", help="write results alone, no pictures")
    add_launcher(parser, ["none", "pytorch"])
    args = parser.parse_args()
    if args.batch < 1:
        raise UserError(f"--batch {args.batch} is not possible; write 1 or more.")
    if not 0 <= args.score_thr <= 1:
        raise UserError(f"--score-thr {args.score_thr} is not a score; write a number from 0 to 1.")

    from xcit_dense.media.inputs import find_media
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.inference.predict import join, make_predictor, reserve, run
    from xcit_dense.mm.runtime.launch import leave

    set_local_rank(args)
    config = load_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    check_config(config, ())
    media = find_media(args.inputs)
    weights = find_checkpoint(args.weights)
    join(args.launcher)
    predictor = make_predictor(config, weights)
    reserve(args.out)
    summary = run(predictor, media, args.out, batch=args.batch, score_thr=None if args.no_draw else args.score_thr)
    status = report(summary, args.out) if summary else 0
    leave(status)
    sys.exit(status)


def report(summary: "Summary", out: Path) -> int:
    """Prints what a run has come to; the exit status."""
    found = "" if summary.objects is None else f", {summary.objects} objects of any score"
    print(f"{summary.pictures} pictures{found}")
    for name in ("results.json", "images.json", "labels", "pictures"):
        if (out / name).exists():
            print(out / name)
    if not summary.failures:
        return 0
    print(f"error: {len(summary.failures)} could not be done, or not wholly:", file=sys.stderr)
    for name, why in summary.failures:
        print(f"  {name}: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
