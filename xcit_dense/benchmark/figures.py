"""The figures of a contender: its distance from the expected outcome, its costs and its times."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from xcit_dense.benchmark.meters import clock
from xcit_dense.benchmark.options import Conditions
from xcit_dense.errors import UserError

TOLERANCES = {"fp32": 1e-3, "bf16": 0.1}
"""Largest distance of a contender from the expected outcome in fp32: root mean square, in standard deviations."""

Outcome = dict[str, list[Tensor]]
"""Tensors in fp32 by what they are: levels, gradients."""

logger = logging.getLogger(__name__)


@dataclass
class Figures:
    """Figures of one contender at one size."""

    errors: dict[str, float]
    multiply_adds: int | None  # None for a compiled or exported contender
    saved_bytes: int | None  # None for a compiled or exported contender, and at inference
    peak_bytes: int | None  # of a step; None where the memory is not counted
    samples: list[float] = field(default_factory=list)  # seconds, one for each round
    seconds: float = math.nan  # median of the samples
    objects: int | None = None  # that a detector finds in all images
    parts: dict[str, float] = field(default_factory=dict)  # seconds of the parts of a complete model


@dataclass
class Result:
    """Figures of all contenders at one size."""

    size: str
    pixels: int  # of one image
    contenders: dict[str, Figures]
    floor: float | None = None  # seconds of the matrix products of a backbone
    attention: dict[str, int] = field(default_factory=dict)  # multiply-adds of a backbone's attention, by form
    left_out: dict[str, str] = field(default_factory=dict)  # why a contender was not measured


def compare(
    name: str,
    found: Outcome,
    expected: Outcome,
    dtype: str,
    reference: str,
    tolerances: Mapping[str, float] = TOLERANCES,
) -> dict[str, float]:
    """Compares the outcome of a contender with the expected outcome.

    Args:
        name: The name of the contender.
        found: The outcome of the contender.
        expected: The outcome of the reference in fp32, with as many tensors.
        dtype: The number format of the contender, a name in ``TOLERANCES``.
        reference: The name of the reference in the message.
        tolerances: The largest distance by number format.

    Returns:
        The largest distance of each kind of tensors, in standard deviations.

    Raises:
        UserError: A distance is larger than the tolerance, or is NaN.
    """
    tolerance, errors = tolerances[dtype], {}
    for key, tensors in found.items():
        distances = [(a - b).norm() / (b - b.mean()).norm() for a, b in zip(tensors, expected[key], strict=True)]
        errors[key] = error = float(torch.stack(distances).max())
        if not error <= tolerance:  # also true for NaN
            raise UserError(
                f"The {key} of {name} are {error:.1e} standard deviations from the {key} of {reference} in fp32. "
                f"In {dtype} {tolerance:.0e} is allowed; fix {name}, or leave it out of --contenders."
            )
    return errors


def alternate(
    runs: Mapping[str, Callable[[], object]],
    figures: Mapping[str, Figures],
    options: Conditions,
    after_round: Callable[[], object] = lambda: None,
) -> None:
    """Times contenders in turn, and adds the seconds to their figures.

    Args:
        runs: The step of each contender.
        figures: The figures of each contender.
        options: The number of rounds and the device.
        after_round: What follows each round.
    """
    for number in range(options.rounds):
        for name, run in runs.items():
            run()  # not timed: the contender before has left the memory in another state
            figures[name].samples.append(clock(run, options.device))
        after_round()
        logger.info("round %d of %d", number + 1, options.rounds)
    for one in figures.values():
        one.seconds = median(one.samples)
