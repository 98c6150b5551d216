"""Imports of MMDetection and MMSegmentation without the lines that these libraries print while they are imported."""

from __future__ import annotations

import contextlib
import io
import logging
from importlib import import_module
from types import ModuleType


def import_library(scope: str, module: str) -> ModuleType:
    """Imports a module of MMDetection or MMSegmentation.

    MMDetection prints ``Could not import OneDL`` twice, although nobody needs OneDL. Printed lines go to Python's
    logger ``xcit_dense`` at level INFO.

    Args:
        scope: ``'mmdet'`` or ``'mmseg'``.
        module: The module's name within the library, for example ``'models'``.

    Returns:
        The module.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        imported = import_module(f"{scope}.{module}")
    for line in printed.getvalue().splitlines():
        logging.getLogger("xcit_dense").info("%s", line)
    return imported
