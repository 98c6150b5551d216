"""Saves a trained detector or segmentor as one file with its config, its classes and its preprocessing.

Examples:
    publish WORK_DIR --out DIR             the config and the last checkpoint of a training
    publish CONFIG WEIGHTS --out DIR
    publish WORK_DIR --out DIR --push USER/REPOSITORY

DIR receives model.safetensors, which is enough for predict and test; config.json, a copy of what the file says of the
model; and README.md, a model card. No file is a pickle. --push uploads the three files to the Hugging Face hub, where
hf://USER/REPOSITORY names the model.
"""

from __future__ import annotations

import argparse
import math
from contextlib import suppress
from pathlib import Path

from xcit_dense.cli.options import (
    CONFIG_HELP,
    WEIGHTS_HELP,
    add_bands,
    add_config_options,
    add_words,
    band_options,
    find_checkpoint,
    read_config_options,
    start_mm,
)
from xcit_dense.cli.positionals import Positionals, read_model_arguments
from xcit_dense.errors import UserError

SUMMARY = "save a trained model as one file, and share it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    explanation = f"CONFIG: {CONFIG_HELP}. WEIGHTS: {WEIGHTS_HELP.format('coco/small_12_p16')}"
    add_words(parser, "[CONFIG] WEIGHTS", explanation, required="--out DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--data", metavar="TEXT", help="what the model was trained on, for the model card")
    parser.add_argument(
        "--metric",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="figures for the model card; default those of the validation at the checkpoint",
    )
    parser.add_argument("--license", metavar="NAME", help="an identifier of the Hugging Face hub; default apache-2.0")
    parser.add_argument("--push", metavar="USER/REPOSITORY", help="upload to this repository of the Hugging Face hub")
    add_config_options(parser)
    add_bands(parser, trains=False)


def run(args: argparse.Namespace) -> None:
    """Saves the model, and prints where it is."""
    from xcit_dense.weights import hub

    metrics = dict(map(read_metric, args.metric))
    if args.push:
        hub.read_address(args.push)
    positionals = read_model_arguments(args.words, takes_inputs=False)
    weights = find_checkpoint(str(positionals.weights))
    start_mm("cpu")

    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.inference.publish import About, save_model

    config = load_config(positionals.config, read_config_options(args.cfg_options), **band_options(args))
    about = About(args.data, metrics or _known_metrics(positionals, weights), args.license)
    print(save_model(config, weights, args.out, about))
    if args.push:
        print(hub.push(args.out, args.push))


def read_metric(text: str) -> tuple[str, float]:
    """Reads a figure.

    Args:
        text: ``NAME=VALUE``.

    Raises:
        UserError: The text is something else.

    Example:
        >>> read_metric("box AP=41.5")
        ('box AP', 41.5)
    """
    name, separator, value = text.partition("=")
    with suppress(ValueError):
        if name and separator and math.isfinite(float(value)):
            return name, float(value)
    raise UserError(f"--metric {text} is not NAME=VALUE; write for example --metric mIoU=43.9.")


def _known_metrics(positionals: Positionals, weights: str) -> dict[str, float]:
    """Finds the figures of a checkpoint: those that were published, or those of its training's validation."""
    from xcit_dense.mm.hooks.learning_curve import metrics_at
    from xcit_dense.weights.saved import read_description
    from xcit_dense.weights.work_dir import read_iteration
    from xcit_dense.weights.zoo import SCHEME, ZOO

    published = ZOO.get(weights.removeprefix(SCHEME))
    if published:
        return dict(published.metrics)
    path = Path(weights)
    description = read_description(path)
    if description:
        return dict(description.get("metrics") or {})
    iteration = read_iteration(path)
    directory = positionals.work_dir or path.parent
    return metrics_at(directory, iteration) if iteration is not None else {}
