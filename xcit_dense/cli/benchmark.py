"""Times a backbone or a complete model next to its peers, and counts work and memory.

Examples:
    benchmark --variant small_12_p16            XCiT next to timm's with the same pyramid, and to bare matrix products
    benchmark --model mask_rcnn_xcit_s12        the model next to the library's heads, and to both on timm's XCiT
    benchmark --model upernet_xcit_s12 --train  training steps
    benchmark --model mask_rcnn_xcit_s12 --device cuda
                                                backbone and model, inference and training, fp32 and bf16

All contenders run in one process, on the same weights and images, in turn. Before anything is timed, their outputs are
compared in fp32, with the literal form of XCA or with the library's heads. In training, the gradients are compared too.
DIR receives benchmark.json, and with several sizes time.png and, where memory was counted, memory.png. If several cases
are measured, each case has a directory in DIR.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcit_dense.cli.options import choose_device, start_mm
from xcit_dense.cli.positionals import read_config_argument
from xcit_dense.errors import UserError
from xcit_dense.variants import get_variant

if TYPE_CHECKING:
    from mmengine.config import Config

    from xcit_dense.benchmark.figures import Result
    from xcit_dense.benchmark.options import Conditions, Size

SUMMARY = "time a backbone or a complete model next to its peers, and count work and memory"
VARIANT = "small_12_p16"
SIZES = {"mmdet": "800x1344", "mmseg": "512x704"}
"""The default sizes of detectors (and of backbones) and of segmentors."""
# Copies from xcit_dense.benchmark and xcit_dense.mm.benchmark, which import torch.
DTYPES = ("fp32", "bf16")
CONTENDERS = (
    "ours",
    "deployed",
    "compiled",
    "checkpointed",
    "literal",
    "timm",
    "timm-compiled",
    "timm-fused",
    "timm-fused-compiled",
    "onnxruntime",
    "openvino",
    "timm-onnxruntime",
    "timm-openvino",
)
MODEL_CONTENDERS = (
    "ours",
    "deployed",
    "compiled",
    "library-heads",
    "timm",
    "timm-compiled",
    "onnxruntime",
    "openvino",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--variant", help=f"which XCiT; default {VARIANT}")
    what.add_argument(
        "--model", metavar="CONFIG", help="a complete model: a config file, or a name such as mask_rcnn_xcit_s12"
    )
    parser.add_argument(
        "--sizes",
        metavar="HxW,...",
        help=f"heights and widths of the images; default {SIZES['mmdet']}, for segmentors {SIZES['mmseg']}",
    )
    parser.add_argument("--batch", type=int, help="images at once; default 1, and 2 for the training of a segmentor")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="bf16 is by autocast; default fp32, and both for --model with --device cuda"
    )
    parser.add_argument(
        "--train",
        action=argparse.BooleanOptionalAction,
        help="training steps, in place of inference; default inference, and both for --model with --device cuda",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run; default %(default)s")
    parser.add_argument("--threads", type=int, help="of the CPU; default PyTorch's own choice")
    parser.add_argument("--rounds", type=int, default=10, help="how often each contender is timed; default %(default)s")
    parser.add_argument(
        "--instances",
        type=int,
        metavar="N",
        help="with --model: objects that a detector finds in each image; default what the config's threshold gives",
    )
    parser.add_argument(
        "--contenders",
        metavar="NAME,...",
        help=f"out of {', '.join(CONTENDERS)}; with --model out of {', '.join(MODEL_CONTENDERS)}; default all that fit "
        "training or inference, without --model only those of PyTorch",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("work_dirs/benchmark"),
        metavar="DIR",
        help="directory for figures and plots; default %(default)s",
    )


@dataclass(frozen=True)
class Case:
    """One race: what is measured, how, and how the result is printed."""

    name: str
    options: Conditions
    measure: Callable[[Size], Result]
    table: Callable[[Result], str]


def run(args: argparse.Namespace) -> None:
    """Measures case by case and size by size, and writes and prints the figures."""
    if args.model is not None:
        cases = _model_cases(args)
    elif args.instances is not None:
        raise UserError("--instances is for detectors; write --model too.")
    else:
        cases = [_backbone_case(args, args.variant or VARIANT, *step) for step in _steps(args)]
    logging.basicConfig(level=logging.INFO, format="{relativeCreated:9.0f} ms  {message}", style="{")
    if len(cases) == 1:
        _measure(cases[0], args.out)
    else:
        _measure_all(cases, args.out)
    print(f"Written to {args.out}")


def _measure_all(cases: list[Case], directory: Path) -> None:
    """Measures several cases. A case that cannot be measured does not end the run."""
    from torch import OutOfMemoryError

    results, faults = {}, {}
    for case in cases:
        try:
            results[case.name] = _measure(case, directory / case.name)
        except (UserError, OutOfMemoryError) as error:
            faults[case.name] = error
            print(f"{case.name} is not measured: {error}", flush=True)
    from xcit_dense.benchmark.report import summary

    print(summary(results))
    if faults:
        name, fault = next(iter(faults.items()))
        raise UserError(f"{len(faults)} of {len(cases)} cases are not measured; the first is {name}: {fault}")


def _measure(case: Case, directory: Path) -> list[Result]:
    from xcit_dense.benchmark.report import draw, growth, write_json

    path, results = directory / "benchmark.json", list["Result"]()
    write_json(path, case.options, results)  # before the work: the directory may not be writable
    for size in case.options.sizes:
        results.append(case.measure(size))
        write_json(path, case.options, results)
        print(case.table(results[-1]), flush=True)
        if len(results) > 1:
            draw(results, case.options, directory)
    if len(results) > 1:
        print(growth(results[0], results[-1]))
    return results


def _steps(args: argparse.Namespace) -> list[tuple[bool, str]]:
    """Lists the steps to measure: whether the model trains, and the number format."""
    everything = args.model is not None and args.device == "cuda"
    trains = (False, True) if everything else (False,)
    dtypes = DTYPES if everything else DTYPES[:1]
    return [
        (train, dtype)
        for train in (trains if args.train is None else (args.train,))
        for dtype in (dtypes if args.dtype is None else (args.dtype,))
    ]


def _backbone_case(args: argparse.Namespace, variant: str, train: bool, dtype: str) -> Case:
    """Returns the race of a backbone."""
    from xcit_dense.benchmark import race
    from xcit_dense.benchmark.contenders import CONTENDERS as TABLE
    from xcit_dense.benchmark.contenders import choose
    from xcit_dense.benchmark.options import Options

    names = None if args.model else args.contenders
    options = Options(
        variant=variant,
        **_conditions(args, SIZES["mmdet"], 1),
        train=train,
        dtype=dtype,
        contenders=choose(names, train),
    )
    get_variant(variant)
    check(options, TABLE)

    from xcit_dense.benchmark.report import table

    name = f"{variant}-{dtype}{'-train' * train}"
    return Case(name, options, partial(race.measure, options), partial(table, options=options))


def _model_cases(args: argparse.Namespace) -> list[Case]:
    """Returns the races of a model, and on CUDA also those of its backbone."""
    positionals = read_config_argument([args.model])
    start_mm(args.device)

    from xcit_dense.mm.benchmark.contenders import find_fault_for_timm
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config

    config = load_config(positionals.config)
    check_config(config, ())
    cases = []
    for train, dtype in _steps(args):
        if args.device == "cuda" and find_fault_for_timm(config) is None:
            cases.append(_backbone_case(args, config.model.backbone.variant, train, dtype))
        cases.append(_model_case(args, positionals.config.stem, config, train, dtype))
    return cases


def _model_case(args: argparse.Namespace, model: str, config: Config, train: bool, dtype: str) -> Case:
    """Returns the race of a complete model."""
    from xcit_dense.mm.benchmark import race
    from xcit_dense.mm.benchmark.contenders import CONTENDERS as TABLE
    from xcit_dense.mm.benchmark.contenders import choose
    from xcit_dense.mm.benchmark.options import ModelOptions

    scope = config.default_scope
    if args.instances is not None and (args.instances < 1 or scope != "mmdet"):
        raise UserError(f"--instances {args.instances} is not possible; write 1 or more, and a detector after --model.")
    options = ModelOptions(
        model=model,
        instances=args.instances,
        **_conditions(args, SIZES[scope], 2 if train and scope == "mmseg" else 1),
        train=train,
        dtype=dtype,
        contenders=choose(args.contenders, config, train, args.device == "cpu", dtype),
        strict=args.contenders is not None,
    )
    check(options, TABLE)

    from xcit_dense.mm.benchmark.report import table

    name = f"{model}-{dtype}{'-train' * train}"
    return Case(name, options, partial(race.measure, options, config), partial(table, options=options))


def _conditions(args: argparse.Namespace, sizes: str, batch: int) -> dict[str, Any]:
    """Returns the options that do not depend on the step."""
    import torch

    return {
        "sizes": tuple(sorted(map(read_size, (args.sizes or sizes).split(",")), key=math.prod)),
        "batch": batch if args.batch is None else args.batch,
        "device": args.device,
        "threads": torch.get_num_threads() if args.threads is None else args.threads,
        "rounds": args.rounds,
    }


def read_size(text: str) -> Size:
    """Reads a height and a width.

    Raises:
        UserError: The text is not HEIGHTxWIDTH.

    Example:
        >>> read_size("800x1344")
        (800, 1344)
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise UserError(f"--sizes has {text!r}; write HEIGHTxWIDTH with commas between, as in 512x512,800x1344.")
    return int(match[1]), int(match[2])


def check(options: Conditions, contenders: Mapping[str, Any]) -> None:
    """Refuses what cannot be run, before any work.

    Args:
        options: The options.
        contenders: The table of contenders.

    Raises:
        UserError: An option has a value that is not possible here.
    """
    for name in ("batch", "threads", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} is not possible; write 1 or more.")
    if options.device == "cuda":
        choose_device("cuda")
    chosen = [contenders[name] for name in options.contenders]
    for name, contender in zip(options.contenders, chosen):
        if contender.runtime and (options.device != "cpu" or options.dtype != "fp32"):
            raise UserError(f"{name} is measured in fp32 on the CPU; write --device cpu --dtype fp32, or leave it out.")
        if contender.runtime and options.strict:
            from xcit_dense.benchmark.exported import check_runtime

            check_runtime(contender.runtime)
    compiler = os.environ.get("CXX", "g++")
    if any(contender.compiled for contender in chosen) and not shutil.which(compiler):
        raise UserError(
            f"torch.compile needs {compiler}, which is not installed; name --contenders that are not compiled."
        )
