"""The race: contenders are compared with the literal form, then counted, then timed alternately."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from xcit_dense.benchmark.contenders import CONTENDERS, make
from xcit_dense.benchmark.floor import Floor
from xcit_dense.benchmark.meters import clock, count_attention, count_multiply_adds, count_peak_bytes, count_saved_bytes
from xcit_dense.benchmark.options import Options, Size
from xcit_dense.errors import UserError

TOLERANCES = {"fp32": 1e-3, "bf16": 0.1}
"""Largest distance of a contender from the literal form in fp32: root mean square, in standard deviations."""

Outcome = dict[str, list[Tensor]]

logger = logging.getLogger(__name__)


@dataclass
class Figures:
    """Figures of one contender at one size."""

    errors: dict[str, float]
    multiply_adds: int | None  # None for a compiled or exported contender
    saved_bytes: int | None  # None for a compiled or exported contender, and at inference
    peak_bytes: int | None  # of a step; None on CPU
    samples: list[float] = field(default_factory=list)  # seconds, one for each round
    seconds: float = math.nan  # median of the samples


@dataclass
class Result:
    """Figures of all contenders at one size."""

    size: str
    pixels: int  # of one image
    attention: dict[str, int]  # multiply-adds, by form
    floor: float  # seconds of the matrix products
    contenders: dict[str, Figures]


def measure(options: Options, size: Size) -> Result:
    """Measures all contenders at one size.

    Raises:
        UserError: The output of a contender differs by more than the tolerance.
    """
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    torch.compiler.reset()
    image = torch.randn(options.batch, 3, *size, generator=torch.Generator().manual_seed(1)).to(options.device)
    exact = replace(options, dtype="fp32")
    expected = _run(make("literal", exact), image, exact)
    models = {name: make(name, options) for name in options.contenders}
    figures = {name: _examine(name, model, image, expected, options) for name, model in models.items()}
    del expected
    floor = Floor(options, size)
    for number in range(options.rounds):
        for name, model in models.items():
            run = partial(_step, model, image, options)
            run()  # not timed: the contender before has left the memory in another state
            figures[name].samples.append(clock(run, options.device))
        floor.run()
        logger.info("round %d of %d", number + 1, options.rounds)
    for one in figures.values():
        one.seconds = median(one.samples)
    height, width = size
    return Result(f"{height}x{width}", math.prod(size), count_attention(options, size), floor.seconds, figures)


def _examine(name: str, model: nn.Module, image: Tensor, expected: Outcome, options: Options) -> Figures:
    """Compares a contender with the expected outcome, and counts its bytes and multiply-adds."""
    tolerance, errors = TOLERANCES[options.dtype], {}
    for key, got in _run(model, image, options).items():
        distances = [(a - b).norm() / (b - b.mean()).norm() for a, b in zip(got, expected[key])]
        errors[key] = error = float(torch.stack(distances).max())
        if not error <= tolerance:  # also true for NaN
            raise UserError(
                f"The {key} of {name} are {error:.1e} standard deviations from the {key} of the literal form in fp32. "
                f"In {options.dtype} {tolerance:.0e} is allowed; fix {name}, or leave it out of --contenders."
            )
    plain = CONTENDERS[name].is_module
    with options.autocast:
        figures = Figures(
            errors,
            count_multiply_adds(model, image) if plain else None,
            count_saved_bytes(model, image) if plain and options.train else None,
            count_peak_bytes(partial(_step, model, image, options)) if options.device == "cuda" else None,
        )
    logger.info("%s agrees and is counted", name)
    return figures


def _run(model: nn.Module, image: Tensor, options: Options) -> Outcome:
    """Returns the levels of a step in fp32, and in training the gradients of all blocks as one tensor.

    The gradients of the stem are left out, because PyTorch's batch norm can compute wrong gradients for a single image
    on CPU.
    """
    levels, gradients = _step(model, image, options)
    found = {"levels": [level.detach().float() for level in levels]}
    if options.train:
        named = {name: gradient for (name, _), gradient in zip(model.named_parameters(), gradients)}
        found["gradients"] = [torch.cat([named[name].flatten() for name in sorted(named) if name.startswith("blocks")])]
    return found


def _step(model: nn.Module, image: Tensor, options: Options) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Computes levels, and in training the gradients of all parameters. The loss is half the sum of all squares."""
    with torch.inference_mode(not options.train), options.autocast:
        levels = model(image)
    if not options.train:
        return levels, ()
    # The gradients of this loss are the levels, so that only the model takes time.
    return levels, torch.autograd.grad(levels, list(model.parameters()), [level.detach() for level in levels])
