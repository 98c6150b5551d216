"""Evaluates a detector or a segmentor on the test set of its config.

Examples:
    test CONFIG WEIGHTS
    test WORK_DIR             the config and the last checkpoint of a training
    test coco/small_12_p16    published weights, with their config
    test CONFIG model.onnx    an exported model, on the test set of a config
    test DIR --data-root D    a saved model (publish), or a checkpoint without a config, with data in D
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

from xcit_dense.cli.data_check import check_data
from xcit_dense.cli.options import (
    CONFIG_HELP,
    WEIGHTS_HELP,
    add_bands,
    add_run_options,
    add_verbose,
    add_words,
    find_checkpoint,
    make_config,
    start_mm,
)
from xcit_dense.cli.positionals import is_exported, read_model_arguments
from xcit_dense.cli.windows import add_windows, window_options
from xcit_dense.errors import UserError
from xcit_dense.utils.files import atomic_write

SUMMARY = "evaluate a detector or a segmentor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    weights = WEIGHTS_HELP.format("coco/small_12_p16")
    add_words(parser, "[CONFIG] WEIGHTS", f"CONFIG: {CONFIG_HELP}. WEIGHTS: {weights}")
    add_run_options(parser)
    add_bands(parser, trains=False)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the metrics there")
    parser.add_argument(
        "--show-dir", type=Path, metavar="DIR", help="draw each image there, ground truth left and prediction right"
    )
    parser.add_argument(
        "--tta", action="store_true", help="merge predictions for the sizes and flips of the config's tta_pipeline"
    )
    add_windows(parser)
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluates, writes metrics and images where asked, and sums up."""
    if args.out:
        check_out(args.out)
    windows = window_options(args)
    positionals = read_model_arguments(args.words, takes_inputs=False)
    start_mm(args.device)

    from xcit_dense.datasets.checks import SAMPLE
    from xcit_dense.utils.ranks import is_local_rank_zero

    config = make_config(args, positionals, ("test_dataloader",))
    if is_local_rank_zero():
        check_data(config, ("test_dataloader",), SAMPLE)
    if not args.work_dir:  # MMEngine writes the config of this run, and the config of the training must stay as it is
        config.work_dir = str(Path(config.work_dir, "test"))
    exported = is_exported(str(positionals.weights))
    if exported:
        use_exported(config, args, str(positionals.weights))
    else:
        config.load_from = find_checkpoint(str(positionals.weights))
    config.resume = False  # the config of a training may have continued another
    if args.show_dir:
        add_hook(config, type="DrawImagesHook", directory=str(args.show_dir.resolve()))
    if args.tta:
        augment(config)
    if windows:
        use_windows(config, args, windows, exported)
    config.pop("strategy", None)  # a strategy shards a model to train it
    if not exported:
        add_hook(config, type="DeployHook")

    from mmengine.dist import is_main_process

    from xcit_dense.mm.runtime.launch import leave, make_runner

    metrics = make_runner(config, verbose=args.verbose).test()
    if is_main_process():
        if args.out:
            write_json(args.out, metrics)
        sum_up(
            args.out, args.show_dir, Path(config.load_from or str(positionals.weights)).parent / "learning_curve.png"
        )
    leave()


def use_exported(config: Any, args: argparse.Namespace, path: str) -> None:
    """Puts an exported model in the place of the config's model."""
    if args.tta:
        raise UserError("--tta needs the model of a config; an exported model predicts one size of each image.")
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; write the file with xcit-dense export.")
    from xcit_dense.mm.export import exported_model  # noqa: F401  (registers the type)

    config.model = {"type": "mmengine.ExportedModel", "path": str(Path(path).resolve())}
    config.load_from = None


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
    """Makes the test merge its predictions for several sizes and flips of each image."""
    if not config.get("tta_model") or not config.get("tta_pipeline"):
        raise UserError(
            "--tta needs tta_model and tta_pipeline in the config; configs/_base_/datasets/coco_instance.py and "
            "ade20k.py have them."
        )
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    config.model = {**config.tta_model, "module": config.model}


def use_windows(config: Any, args: argparse.Namespace, windows: dict[str, Any], exported: bool) -> None:
    """Makes the test predict each image by windows, as predict does."""
    if args.tta or exported:
        other = "--tta" if args.tta else "an exported model"
        raise UserError(f"--window does not work with {other}; leave --window out, or test the model of a config.")
    from xcit_dense.mm.inference.window_engine import use_native_size  # registers the type

    use_native_size(config)
    options = {"window": windows["side"], "overlap": windows["overlap"], "scale": windows["scale"]}
    config.model = {"type": "mmengine.WindowedModel", "module": config.model, **options}


def add_hook(config: Any, **hook: Any) -> None:
    """Adds a hook to the hooks of the config."""
    config.custom_hooks = [*config.get("custom_hooks", []), hook]


def write_json(path: Path, metrics: dict[str, float]) -> None:
    """Writes the metrics, atomically."""
    # MMSegmentation's metrics are NumPy numbers. The metric of a class without ground truth is NaN, which JSON lacks.
    numbers = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
    with atomic_write(path) as part:
        part.write_text(json.dumps(numbers, indent=2) + "\n")


def sum_up(out: Path | None, images: Path | None, curve: Path) -> None:
    """Prints where the files are. The run itself has printed the metrics."""
    for what, where in (("Metrics", out), ("Pictures", images), ("Learning curve", curve)):
        if where and where.exists():
            print(f"{what + ':':15} {where}")
