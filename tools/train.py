"""Trains a detector or a segmentor: python tools/train.py configs/detection/mask_rcnn_xcit_s12.py."""

from pathlib import Path

from xcit_dense.cli import make_config, make_parser
from xcit_dense.errors import UserError, exit_with_sentence


@exit_with_sentence
def main() -> None:
    """Reads the command line and trains."""
    parser = make_parser("Train a detector or a segmentor, as its config says.")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from CHECKPOINT, or from the last one in the work directory",
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, where there is a GPU")
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size of all processes"
    )
    args = parser.parse_args()

    config = make_config(args, ("train_dataloader", "val_dataloader"))
    if args.resume:
        if args.resume != "auto" and "://" not in args.resume and not Path(args.resume).is_file():
            raise UserError(
                f"No checkpoint at {args.resume}; write --resume alone to go on from the last one in --work-dir."
            )
        config.resume = True
        config.load_from = None if args.resume == "auto" else args.resume
    if args.amp:
        config.optim_wrapper.type = "AutoAmpOptimWrapper"
    if args.auto_scale_lr:
        if "base_batch_size" not in config.get("auto_scale_lr", {}):
            raise UserError(
                f"{args.config} does not say for how many pictures a step its learning rate is meant; write "
                "auto_scale_lr = dict(enable=True, base_batch_size=16) in it."
            )
        config.auto_scale_lr.enable = True

    from mmengine.runner import Runner

    Runner.from_cfg(config).train()


if __name__ == "__main__":
    main()
