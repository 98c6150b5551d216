"""Exports a detector, a segmentor or its backbone, with everything that a program needs to run it.

Examples:
    export CONFIG WEIGHTS --out model.onnx
    export WORK_DIR --out model.xml             the config and the last checkpoint of a training, for OpenVINO
    export WORK_DIR --out model.onnx --int8 data/mine/train2017

The suffix of --out chooses the format: .onnx, .pt2 (PyTorch's torch.export) or .xml (OpenVINO). The model takes RGB
images (B, 3, H, W) with values from 0 to 255, of any number and size.

    predict model.onnx photos --out DIR         runs the exported model
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from xcit_dense.cli.options import (
    CONFIG_HELP,
    WEIGHTS_HELP,
    add_config_options,
    add_verbose,
    add_words,
    find_checkpoint,
    read_config_options,
    start_mm,
)
from xcit_dense.cli.positionals import read_model_arguments
from xcit_dense.errors import UserError

SUMMARY = "write a model as ONNX, OpenVINO or PyTorch's exported program"

_CALIBRATION = 100
"""The number of images that determine the ranges of 8-bit numbers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    weights = WEIGHTS_HELP.format("coco/small_12_p16")
    add_words(parser, "[CONFIG] WEIGHTS", f"CONFIG: {CONFIG_HELP}. WEIGHTS: {weights}", required="--out FILE")
    add_config_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write: .onnx, .pt2 or .xml")
    parser.add_argument(
        "--part", choices=("model", "backbone"), default="model", help="what to export; default: the complete model"
    )
    parser.add_argument(
        "--output", choices=("logits", "labels"), default="logits", help="what a segmentor returns; default logits"
    )
    parser.add_argument(
        "--normalise",
        choices=("inside", "outside"),
        default="inside",
        help="whether the model takes values from 0 to 255 (inside, the default) or normalised values",
    )
    parser.add_argument("--dtype", choices=("fp32", "fp16"), default="fp32", help="format of the weights; default fp32")
    parser.add_argument(
        "--int8",
        metavar="DATA",
        help=f"quantize products to 8 bits; DATA are images, of which the first {_CALIBRATION} determine the ranges",
    )
    add_verbose(parser)


def run(args: argparse.Namespace) -> None:
    """Exports, and prints what was written."""
    positionals = read_model_arguments(args.words, takes_inputs=False)
    start_mm("cpu")

    from xcit_dense.export.write import check_out, write_model
    from xcit_dense.media.inputs import find_media
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config
    from xcit_dense.mm.export.build import make_exportable

    check_out(args.out, args.dtype, args.int8 is not None)
    if args.int8 is not None and args.part == "backbone":
        raise UserError("--int8 does not quantize a backbone alone; leave --part out.")
    images = [] if args.int8 is None else [medium.path for medium in find_media([args.int8]) if not medium.is_video]
    config = load_config(positionals.config, read_config_options(args.cfg_options))
    check_config(config, ())
    model, metadata = make_exportable(
        config,
        find_checkpoint(str(positionals.weights)),
        part=args.part,
        output=args.output,
        normalise=args.normalise,
        verbose=args.verbose,
    )

    def calibrate(path: Path) -> Iterator[Any]:
        from xcit_dense.inference.exported import ExportedModel

        exported = ExportedModel(path)
        for image in islice(images, _CALIBRATION):
            yield exported.read(image).data[None]

    write_model(model, metadata, args.out, dtype=args.dtype, calibrate=calibrate if args.int8 is not None else None)
    size = sum(path.stat().st_size for path in {args.out, args.out.with_suffix(".bin")} if path.exists())
    print(f"{args.out}: {metadata.task}, {', '.join(metadata.outputs)}, {size / 2**20:.1f} MiB")
