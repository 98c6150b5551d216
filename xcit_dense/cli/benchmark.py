"""Times XCiT next to timm's with the same pyramid and next to bare matrix products, and counts work and memory.

All contenders run in one process, on the same weights and images, in turn. Before anything is timed, their outputs are
compared with the outputs of the literal form of XCA in fp32. DIR receives benchmark.json, and with several sizes
time.png and, where memory was counted, memory.png.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from xcit_dense.cli.options import choose_device
from xcit_dense.errors import UserError
from xcit_dense.variants import get_variant

if TYPE_CHECKING:
    from xcit_dense.benchmark.options import Options, Size

SUMMARY = "time XCiT next to timm's, and count work and memory"
# Copies from xcit_dense.benchmark, which imports torch.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    parser.add_argument("--variant", default="small_12_p16", help="which XCiT; default %(default)s")
    parser.add_argument(
        "--sizes", default="800x1344", metavar="HxW,...", help="heights and widths of the images; default %(default)s"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once; default %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16 is by autocast; default %(default)s")
    parser.add_argument("--train", action="store_true", help="forward and backward pass, in place of inference")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run; default %(default)s")
    parser.add_argument("--threads", type=int, help="of the CPU; default PyTorch's own choice")
    parser.add_argument("--rounds", type=int, default=10, help="how often each contender is timed; default %(default)s")
    parser.add_argument(
        "--contenders",
        metavar="NAME,...",
        help=f"out of {', '.join(CONTENDERS)}; default all of PyTorch that fit training or inference",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for figures and plots")


def run(args: argparse.Namespace) -> None:
    """Measures size by size, and writes and prints the figures."""
    import torch

    from xcit_dense.benchmark import race
    from xcit_dense.benchmark.contenders import choose
    from xcit_dense.benchmark.options import Options

    options = Options(
        variant=args.variant,
        sizes=tuple(sorted(map(read_size, args.sizes.split(",")), key=math.prod)),
        batch=args.batch,
        dtype=args.dtype,
        train=args.train,
        device=args.device,
        threads=torch.get_num_threads() if args.threads is None else args.threads,
        rounds=args.rounds,
        contenders=choose(args.contenders, args.train),
    )
    check(options)

    from xcit_dense.benchmark.report import draw, growth, table, write_json

    logging.basicConfig(level=logging.INFO, format="{relativeCreated:9.0f} ms  {message}", style="{")
    results: list[race.Result] = []
    write_json(args.out / "benchmark.json", options, results)  # before the work: the directory may not be writable
    for size in options.sizes:
        results.append(race.measure(options, size))
        write_json(args.out / "benchmark.json", options, results)
        print(table(results[-1], options), flush=True)
        if len(results) > 1:
            draw(results, options, args.out)
    if len(results) > 1:
        print(growth(results[0], results[-1]))
    print(f"Written to {args.out}")


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


def check(options: Options) -> None:
    """Refuses what cannot be run, before any work.

    Raises:
        UserError: An option has a value that is not possible here.
    """
    from xcit_dense.benchmark import contenders
    from xcit_dense.benchmark.exported import check_runtime

    get_variant(options.variant)
    for name in ("batch", "threads", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} is not possible; write 1 or more.")
    if options.device == "cuda":
        choose_device("cuda")
    for name in options.contenders:
        runtime = contenders.CONTENDERS[name].runtime
        if runtime:
            if options.device != "cpu" or options.dtype != "fp32":
                raise UserError(
                    f"{name} is measured in fp32 on the CPU; write --device cpu --dtype fp32, or leave it out."
                )
            check_runtime(runtime)
    compiler = os.environ.get("CXX", "g++")
    if any(contenders.CONTENDERS[name].compiled for name in options.contenders) and not shutil.which(compiler):
        raise UserError(
            f"torch.compile needs {compiler}, which is not installed; name --contenders that are not compiled."
        )
