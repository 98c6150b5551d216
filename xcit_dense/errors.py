"""Errors that their reader can mend, and how command lines show them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

INSTALL_MM = 'pip install ".[mm]" (or ".[openmmlab]") in a clone of xcit_dense'
"""The remedy where MM libraries are missing."""

P = ParamSpec("P")
T = TypeVar("T")


class UserError(ValueError):
    """Something is wrong that the user can put right; the message says what, and what to write instead."""


class MissingLibraryError(UserError, ImportError):
    """A library is not installed; the message has the command that installs it."""


def exit_with_sentence(main: Callable[P, T]) -> Callable[P, T]:
    """Makes a command line end with ``error: ...`` and status 1 on a :class:`UserError`, without a traceback."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            sys.exit(f"error: {error}")

    return wrapped
