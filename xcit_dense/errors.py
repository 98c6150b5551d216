"""Errors that their reader can mend, and how command lines show them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INSTALL_MM = 'pip install ".[mm]" (or ".[openmmlab]") in a clone of xcit_dense'
"""The remedy where MM libraries are missing."""


class UserError(ValueError):
    """Something is wrong that the user can put right; the message says what, and what to write instead."""


class MissingLibraryError(UserError, ImportError):
    """A library is not installed; the message has the command that installs it."""


def did_you_mean(kind: str, name: str, valid: Iterable[str]) -> str:
    """The sentence that rejects ``name``: the nearest valid name, if one is near, and all of them."""
    valid = list(valid)
    nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"No {kind} is called {name!r}.{hint} Valid names: {', '.join(valid)}."
