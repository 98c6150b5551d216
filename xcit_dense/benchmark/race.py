"""The race: contenders are compared with the literal form, then counted, then timed alternately."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from xcit_dense.benchmark.contenders import CONTENDERS, make
from xcit_dense.benchmark.figures import Figures, Outcome, Result, alternate, compare
from xcit_dense.benchmark.floor import Floor
from xcit_dense.benchmark.meters import count_attention, count_multiply_adds, count_peak_bytes, count_saved_bytes
from xcit_dense.benchmark.options import Options, Size

logger = logging.getLogger(__name__)


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
    runs = {name: partial(_step, model, image, options) for name, model in models.items()}
    alternate(runs, figures, options, after_round=floor.run)
    height, width = size
    attention = count_attention(options, size)
    return Result(f"{height}x{width}", math.prod(size), figures, floor.seconds, attention)


def _examine(name: str, model: nn.Module, image: Tensor, expected: Outcome, options: Options) -> Figures:
    """Compares a contender with the expected outcome, and counts its bytes and multiply-adds."""
    errors = compare(name, _run(model, image, options), expected, options.dtype, "the literal form")
    plain, step = CONTENDERS[name].is_module, partial(_step, model, image, options)
    with options.autocast:
        figures = Figures(
            errors,
            count_multiply_adds(model, image) if plain else None,
            count_saved_bytes(model, image) if plain and options.train else None,
            count_peak_bytes(step, options.device) if options.device == "cuda" else None,
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
