"""Imports of MMDetection and MMSegmentation without the lines and warnings that these libraries print."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType


def import_library(scope: str, module: str) -> ModuleType:
    """Imports a module of MMDetection or MMSegmentation (:func:`prints_logged`).

    Args:
        scope: ``'mmdet'`` or ``'mmseg'``.
        module: The module's name within the library, for example ``'models'``.

    Returns:
        The module.
    """
    with prints_logged():
        return import_module(f"{scope}.{module}")


@contextlib.contextmanager
def prints_logged() -> Iterator[None]:
    """Sends printed lines and Python's warnings to Python's logger ``xcit_dense`` at level INFO.

    MMDetection prints ``Could not import OneDL`` twice while it is imported, although nobody needs OneDL. It also warns
    that an optional evaluator is not installed.
    """
    printed = io.StringIO()
    caught: list[warnings.WarningMessage] = []
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
            yield
    finally:
        for line in [*printed.getvalue().splitlines(), *(str(warning.message) for warning in caught)]:
            logging.getLogger("xcit_dense").info("%s", line)
