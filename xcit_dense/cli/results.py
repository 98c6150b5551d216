"""What predict prints at the end of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_RESULTS = ("results.json", "images.json", "labels", "objects", "scores", "pictures", "previews")


def report(summary: str, out: Path, failures: Sequence[tuple[str, str]]) -> int:
    """Prints what a run has found, where it is, and what failed.

    Args:
        summary: What the run has found.
        out: The output directory.
        failures: What failed, each with the reason.

    Returns:
        The exit status.
    """
    print(summary)
    for name in _RESULTS:
        if (out / name).exists():
            print(out / name)
    if not failures:
        return 0
    print(f"error: {len(failures)} could not be done, or only in part:", file=sys.stderr)
    for name, why in failures:
        print(f"  {name}: {why}", file=sys.stderr)
    return 1
