"""Trains a detector or a segmentor: python tools/train.py configs/detection/mask_rcnn_xcit_s12.py."""

from typing import Any

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import add_own_data, find_checkpoint, make_config, make_parser
from xcit_dense.datasets.checks import SAMPLE
from xcit_dense.errors import UserError
from xcit_dense.weights.work_dir import last_intact_checkpoint


@exit_with_sentence
def main() -> None:
    """Reads the command line and trains."""
    parser = make_parser("Train a detector or a segmentor, as its config says.")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from CHECKPOINT, or from the last whole one in the work directory; without any, begin",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, where there is a GPU")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size of all processes"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="pictures a step and process; scales the learning rate with it"
    )
    add_own_data(parser)
    parser.add_argument(
        "--check-data", action="store_true", help="open every picture of the data to check it, and do not train"
    )
    args = parser.parse_args()

    from xcit_dense.mm.config.load import scale_rate
    from xcit_dense.mm.runtime.launch import leave, make_runner
    from xcit_dense.utils.ranks import is_local_rank_zero

    config = make_config(args, ("train_dataloader", "val_dataloader"), weights=not args.check_data)
    if args.auto_scale_lr or args.batch is not None:
        scale_rate(config, args.batch)
    checkpoint = None
    if args.resume:
        checkpoint = last_intact_checkpoint(config.work_dir) if args.resume == "auto" else find_checkpoint(args.resume)
        if checkpoint is None and is_local_rank_zero():
            print(f"No whole checkpoint in {config.work_dir} to go on from; training begins.", flush=True)
    # A label that is no class ends a training of segmentation on any data; that of COCO's format is read anyway.
    if args.classes or args.check_data or (args.data_root and config.default_scope == "mmseg"):
        if is_local_rank_zero():
            check(config, None if args.check_data else SAMPLE, own=args.classes is not None)
        if args.check_data:
            return
    if args.amp:
        config.optim_wrapper.type = "AutoAmpOptimWrapper"

    make_runner(config, resume_from=checkpoint).train()
    leave()


def check(config: Any, limit: int | None, own: bool) -> None:
    """Says what the data is and what is wrong with it.

    Args:
        config: A whole config.
        limit: Pictures of each split that are opened at most; None opens all.
        own: Whether classes were read from the data.

    Raises:
        UserError: A training would fail or learn something wrong.
    """
    from xcit_dense.mm.config.own_data import check_data, describe_data

    print(*describe_data(config), sep="\n")
    reports = check_data(config, ("train_dataloader", "val_dataloader"), limit)
    print(*reports, sep="\n", flush=True)
    errors = sum(report.errors for report in reports)
    if errors:
        raise UserError(
            f"The data has {errors} kind{'s' * (errors > 1)} of error, listed above with their places; "
            f"{'' if own else 'for data with classes of its own write --classes auto, else '}mend them, or leave out "
            "the annotations and pictures they concern."
        )


if __name__ == "__main__":
    main()
