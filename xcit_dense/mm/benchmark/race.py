"""The race of complete models: contenders are compared, then counted, then timed alternately."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from torch._dynamo.exc import TorchDynamoException

from xcit_dense.benchmark.figures import TOLERANCES, Figures, Outcome, Result, alternate, compare
from xcit_dense.benchmark.meters import count_multiply_adds, count_peak_bytes, count_saved_bytes
from xcit_dense.benchmark.options import Size
from xcit_dense.errors import UserError
from xcit_dense.mm.benchmark.contenders import CONTENDERS, REFERENCE, make, make_weights, prepare_config
from xcit_dense.mm.benchmark.exported import Exporter, Predictions
from xcit_dense.mm.benchmark.instances import limit_instances
from xcit_dense.mm.benchmark.options import ModelOptions
from xcit_dense.mm.benchmark.parts import time_parts
from xcit_dense.mm.benchmark.samples import Batch, make_batch
from xcit_dense.mm.benchmark.steps import check_heads, outcome, predict, step
from xcit_dense.mm.inference.classes import count_classes

GRADIENTS = {"fp32": 1e-2, "bf16": 0.5}
"""As :data:`xcit_dense.benchmark.figures.TOLERANCES`, for gradients. Rounding changes signs before the ReLUs of neck
and heads. So the gradients of the library's UperNet in fp32 are 1e-3 standard deviations from its gradients in fp64. In
bf16, gradients of the backbone differ by 0.2. A gradient of twice the size differs by 1.
"""
_OF_REFERENCE = 1.5
"""A gradient may also be this many times as far away as the reference itself is in the same number format. A batch norm
behind a pooling to one position makes large values of small differences.
"""

logger = logging.getLogger(__name__)


def measure(options: ModelOptions, config: Config, size: Size) -> Result:
    """Measures all contenders at one size.

    Args:
        options: The options.
        config: The complete config of a detector or segmentor.
        size: Height and width of the images.

    Raises:
        UserError: The output of a contender differs by more than the tolerance.
    """
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    torch.compiler.reset()
    config = prepare_config(config)
    weights = make_weights(config)
    exact = replace(options, dtype="fp32")
    reference = make(REFERENCE, config, weights, exact)
    check_heads(reference)
    classes = count_classes(reference)
    batch = make_batch(config.default_scope == "mmseg", classes, size, options.batch, options.device)
    if options.instances is not None:
        config = limit_instances(config, lambda one: make(REFERENCE, one, weights, exact), batch, exact)
        reference = make(REFERENCE, config, weights, exact)
    expected = outcome(reference, batch, exact)
    limits = _limit_gradients(reference, batch, expected, options)
    predictions = Predictions.of_samples([] if options.train else predict(reference, batch, exact))
    del reference
    runs: dict[str, Callable[[], object]] = {}
    exporter = Exporter(config, weights)
    figures: dict[str, Figures] = {}
    left_out: dict[str, str] = {}
    for name in options.contenders:
        runtime = CONTENDERS[name].runtime
        try:
            if runtime is None:
                model = make(name, config, weights, options)
                found = outcome(model, batch, options)
            else:
                exported = exporter.open(runtime, options.threads)
        except (UserError, TorchDynamoException) as error:
            if options.strict:
                raise
            left_out[name] = str(error)
            logger.info("%s is left out: %s", name, error)
            continue
        if runtime is None:
            errors: dict[str, float] = {}
            for of_gradients, tolerances in ((False, TOLERANCES), (True, limits)):
                part = {key: value for key, value in found.items() if key.startswith("gradients") == of_gradients}
                errors |= compare(name, part, expected, options.dtype, REFERENCE, tolerances)
            figures[name] = _count(name, model, batch, errors, options)
            runs[name] = partial(step, model, batch, options)
        else:
            predicted = Predictions.of_results(exported.predict(batch))
            errors = predicted.compare(name, predictions)
            figures[name] = Figures(errors, None, None, None, objects=predicted.objects)
            runs[name] = partial(exported.predict, batch)
        logger.info("%s agrees and is counted", name)
    del expected
    alternate(runs, figures, options)
    height, width = size
    return Result(f"{height}x{width}", math.prod(size), figures, left_out=left_out)


def _limit_gradients(reference: Any, batch: Batch, expected: Outcome, options: ModelOptions) -> dict[str, float]:
    """Returns the largest distances of gradients, by number format."""
    limits = dict(GRADIENTS)
    if options.train and options.dtype != "fp32":
        found = outcome(reference, batch, options)
        gradients = {key: value for key, value in found.items() if key.startswith("gradients")}
        distances = compare(REFERENCE, gradients, expected, options.dtype, REFERENCE, {options.dtype: math.inf})
        limits[options.dtype] = max(limits[options.dtype], *(_OF_REFERENCE * one for one in distances.values()))
    return limits


def _count(name: str, model: Any, batch: Batch, errors: dict[str, float], options: ModelOptions) -> Figures:
    """Counts the bytes, multiply-adds and objects of a contender, and times its parts."""
    plain = CONTENDERS[name].is_module
    mode = "loss" if options.train else "predict"
    figures = Figures(errors, None, None, None)
    if plain:
        with options.autocast:
            figures.multiply_adds = count_multiply_adds(lambda x: model(x, batch.samples, mode=mode), batch.images)
            if options.train:
                figures.saved_bytes = count_saved_bytes(model, batch.images, batch.samples, mode=mode)
        figures.parts = time_parts(model, batch, options)
    if plain or options.device == "cuda":
        figures.peak_bytes = count_peak_bytes(partial(step, model, batch, options), options.device)
        model.zero_grad(set_to_none=True)
    if not options.train:
        figures.objects = Predictions.of_samples(predict(model, batch, options)).objects
    return figures
