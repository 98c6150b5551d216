"""Times XCiT next to timm's with the same pyramid and next to bare matrix products, and counts work and memory.

All contenders run in one process, on the same weights and images, in turn. Before anything is timed, what they give is
compared with the literal form of XCA in fp32. DIR receives benchmark.json, and with several sizes time.png and, where
memory was counted, memory.png.
"""

import argparse
import logging
import math
import os
import re
import shutil
from pathlib import Path

import torch

from xcit_dense.benchmark.contenders import CONTENDERS, choose
from xcit_dense.benchmark.options import DTYPES, Options, Size
from xcit_dense.benchmark.race import Result, measure
from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.cli.options import choose_device
from xcit_dense.errors import UserError
from xcit_dense.variants import get_variant


@exit_with_sentence
def main() -> None:
    """Reads the command line, measures size by size, and writes and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--variant", default="small_12_p16", help="which XCiT")
    parser.add_argument("--sizes", default="800x1344", metavar="HxW,...", help="heights and widths of the images")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16 is by autocast")
    parser.add_argument("--train", action="store_true", help="forward and backward pass, in place of inference")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--rounds", type=int, default=10, help="how often each contender is timed")
    names = ", ".join(CONTENDERS)
    parser.add_argument("--contenders", metavar="NAME,...", help=f"out of {names}; None is all that fit")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for figures and plots")
    given = vars(parser.parse_args())
    out = given.pop("out")
    sizes = tuple(sorted(map(read_size, given.pop("sizes").split(",")), key=math.prod))
    contenders = choose(given.pop("contenders"), given["train"])
    options = Options(sizes=sizes, contenders=contenders, **given)
    check(options)

    from xcit_dense.benchmark.report import draw, growth, table, write_json

    logging.basicConfig(level=logging.INFO, format="{relativeCreated:9.0f} ms  {message}", style="{")
    results: list[Result] = []
    write_json(out / "benchmark.json", options, results)  # in case it cannot be
    for size in options.sizes:
        results.append(measure(options, size))
        write_json(out / "benchmark.json", options, results)
        print(table(results[-1], options), flush=True)
        if len(results) > 1:
            draw(results, options, out)
    if len(results) > 1:
        print(growth(results[0], results[-1]))
    print(f"Written to {out}")


def read_size(text: str) -> Size:
    """Reads a height and a width."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise UserError(f"--sizes has {text!r}; write HEIGHTxWIDTH with commas between, as in 512x512,800x1344.")
    return int(match[1]), int(match[2])


def check(options: Options) -> None:
    """Refuses what cannot be run, before work is spent on the rest."""
    get_variant(options.variant)
    for name in ("batch", "threads", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} is not possible; write 1 or more.")
    if options.device == "cuda":
        choose_device("cuda")
    compiler = os.environ.get("CXX", "g++")
    if any(CONTENDERS[name].compiled for name in options.contenders) and not shutil.which(compiler):
        raise UserError(f"torch.compile needs {compiler}, which is not there; name --contenders that are not compiled.")


if __name__ == "__main__":
    main()
