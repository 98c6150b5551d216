"""What the tests of both libraries share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from mmengine.config import Config

from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import installed_families, load_family
from tests.matrix.step import Batch, check_step


def cases(library: str, quick: Sequence[str]) -> list[Any]:
    """Returns the families of a library as parameters of a test. CI runs the quick families only."""
    found = []
    for family in installed_families(library):
        marks = () if family in quick else (pytest.mark.slow, pytest.mark.matrix)
        found.append(pytest.param(family, marks=marks, id=family))
    return found


def check_family(library: str, family: str, make_batch: Callable[[Config], Batch]) -> None:
    """Trains and predicts with an XCiT in a family, or checks that the family fails for its reason.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``.
        family: The name of the family.
        make_batch: As in :func:`tests.matrix.step.check_step`.

    Raises:
        AssertionError: The family works although it is an exception, or it fails for another reason.
    """
    reason = EXCEPTIONS[library].get(family)
    if reason is None or not reason.applies():
        check_step(load_family(library, family), make_batch)
        return
    config = None
    failure: Exception | None = None
    try:
        config = load_family(library, family)
        check_step(config, make_batch)
    except Exception as error:
        failure = error
    assert failure is not None, f"{family} works; remove it from tests/matrix/exceptions.py"
    assert reason.holds(config, failure), f"{reason.text!r} is not why: {type(failure).__name__}: {failure}"
