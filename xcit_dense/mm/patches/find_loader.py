"""Gives ``pkgutil.find_loader`` back to Python versions that do not have it.

Python 3.14 removed ``pkgutil.find_loader`` (https://docs.python.org/3/whatsnew/3.14.html#removed). mmcv and MMEngine
0.10.7 call ``pkgutil.find_loader('mmcv._ext')`` to learn whether mmcv has operators. MMEngine calls it for every run of
one process, in ``revert_sync_batchnorm``. Without the function, the run ends in an AttributeError.

The start-up file loads this file by its path, before the package. So this file imports the standard library only.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from typing import Any


def install() -> None:
    """Adds the function where it is missing. Repeated calls have no further effect."""
    if not hasattr(pkgutil, "find_loader"):
        vars(pkgutil)["find_loader"] = _find_loader


def _find_loader(fullname: str) -> Any:
    """Returns the loader of a module, or None if the module does not exist, as Python 3.13 does."""
    try:
        spec = importlib.util.find_spec(fullname)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ImportError(f"Error while finding loader for {fullname!r} ({type(error)}: {error})") from error
    return spec.loader if spec is not None else None
