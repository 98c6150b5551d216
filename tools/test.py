"""Tests a detector or a segmentor: python tools/test.py CONFIG WEIGHTS."""

import json
import math
import os
from pathlib import Path
from typing import Any

from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import find_checkpoint, make_config, make_parser
from xcit_dense.errors import UserError
from xcit_dense.utils.files import atomic_write


@exit_with_sentence
def main() -> None:
    """Reads the command line, evaluates, writes metrics and pictures where asked, and sums up."""
    parser = make_parser("Evaluate a detector or a segmentor on its config's test set.")
    parser.add_argument("weights", help="a checkpoint, a training's work directory or an address")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the metrics there")
    parser.add_argument(
        "--show-dir", type=Path, metavar="DIR", help="draw each picture there, truth left and prediction right"
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over the sizes and flips of the config's tta_pipeline"
    )
    args = parser.parse_args()

    if args.out:
        check_out(args.out)
    config = make_config(args, ("test_dataloader",))
    if not args.work_dir:  # MMEngine writes this run's config, and the training's own must stay as it is
        config.work_dir = str(Path(config.work_dir, "test"))
    config.load_from = find_checkpoint(args.weights)
    config.resume = False  # that of a training's own config may have gone on from another
    if args.show_dir:
        add_hook(config, type="DrawImagesHook", directory=str(args.show_dir.resolve()))
    if args.tta:
        augment(config)
    config.pop("strategy", None)  # what shards a model to train it
    add_hook(config, type="DeployHook")

    from mmengine.dist import is_main_process

    from xcit_dense.mm.runtime.launch import leave, make_runner

    metrics = make_runner(config).test()
    if is_main_process():
        if args.out:
            write_json(args.out, metrics)
        sum_up(metrics, args.out, args.show_dir, Path(config.load_from).parent / "learning_curve.png")
    leave()


def check_out(path: Path) -> None:
    """Refuses, before any work, a file that cannot be written after it."""
    if path.suffix != ".json":
        raise UserError(f"--out {path} is for metrics as JSON; write a name that ends in .json.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}; name another file.") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {path} cannot be written; name another file.")


def augment(config: Any) -> None:
    """Makes the test average its predictions over several sizes and flips of each picture."""
    if "tta_model" not in config or "tta_pipeline" not in config:
        raise UserError(
            "--tta needs tta_model and tta_pipeline in the config; configs/_base_/datasets/ade20k.py has them."
        )
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.model = {**config.tta_model, "module": config.model}


def add_hook(config: Any, **hook: Any) -> None:
    """Adds a hook to those of the config."""
    config.custom_hooks = [*config.get("custom_hooks", []), hook]


def write_json(path: Path, metrics: dict[str, float]) -> None:
    """Writes the metrics whole or not at all."""
    # MMSegmentation's are NumPy's numbers; that of a class without ground truth is none.
    numbers = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
    with atomic_write(path) as part:
        part.write_text(json.dumps(numbers, indent=2) + "\n")


def sum_up(metrics: dict[str, float], out: Path | None, pictures: Path | None, curve: Path) -> None:
    """Prints the metrics and where everything lies."""
    width = max(map(len, metrics), default=0)
    print()
    for name, value in metrics.items():
        print(f"{name:{width}}  {value:.3f}")
    for what, where in (("Metrics", out), ("Pictures", pictures), ("Learning curve", curve)):
        if where and where.exists():
            print(f"{what + ':':15} {where}")


if __name__ == "__main__":
    main()
