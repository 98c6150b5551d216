"""Errors that a user can fix, and the sentences that suggest a valid name for an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from xcit_dense.moved import old_names

__getattr__ = old_names("errors")

INSTALL_MM = 'pip install "xcit-dense[mm]" (or "xcit-dense[openmmlab]")'
"""The remedy where MM libraries are missing."""

_CUTOFF = 0.7  # similarity in [0, 1] from which difflib counts a name as near
_LISTED = 20  # a longer list of valid names is cut to the nearest ones
_SHOWN = 5


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and what to write instead."""


class MissingLibraryError(UserError, ImportError):
    """A library is not installed. The message contains the command that installs the library."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Finds the valid name that is most similar to an unknown name.

    Args:
        name: The unknown name.
        valid: The valid names.

    Returns:
        The nearest valid name, or None if no valid name is similar enough.

    Example:
        >>> nearest("smal_12_p16", ["small_12_p16", "large_24_p8"])
        'small_12_p16'
    """
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=_CUTOFF)
    return found[0] if found else None


def did_you_mean(kind: str, name: str, valid: Iterable[str]) -> str:
    """Writes the sentences that reject an unknown name and suggest valid names.

    Args:
        kind: What the name stands for, a singular noun.
        name: The unknown name.
        valid: The valid names. The sentence lists at most 20 of them; of more names it lists the five nearest.

    Returns:
        The sentences.

    Example:
        >>> did_you_mean("fruit", "aple", ["apple", "pear"])
        "No fruit is called 'aple'. Did you mean 'apple'? Valid names: apple, pear."
    """
    valid = list(valid)
    near = nearest(name, valid)
    hint = f" Did you mean {near!r}?" if near else ""
    if len(valid) <= _LISTED:
        return f"No {kind} is called {name!r}.{hint} Valid names: {', '.join(valid)}."
    some = difflib.get_close_matches(name, valid, n=_SHOWN, cutoff=0.0)
    return f"No {kind} is called {name!r}.{hint} Some of the {len(valid)} valid names: {', '.join(some)}."
