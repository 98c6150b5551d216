"""Sends Python's warnings to the logger of a quiet run.

``logging.captureWarnings`` is Python's documented call for this. It passes on one formatted text only. The quiet
console needs the category too, to leave out warnings that are meant for developers.
"""

from __future__ import annotations

import logging
import warnings
from typing import TextIO

_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def install(logger: logging.Logger) -> None:
    """Replaces ``warnings.showwarning`` until the process ends, or until the next quiet run installs its own logger.

    Each record has the attributes ``short`` (the message without file and line) and ``is_for_developers``.

    Args:
        logger: The logger of a run.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = warnings.formatwarning(message, category, filename, lineno, line).rstrip()
        is_for_developers = issubclass(category, _FOR_DEVELOPERS)
        logger.warning(text, extra={"short": str(message), "is_for_developers": is_for_developers})

    warnings.showwarning = show
