"""Files: written whole or not at all, and where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xcit_dense.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Makes a file appear when all of it is written; if that fails, what was there before stays, and nothing else.

    Args:
        path: The file; its directory is made.

    Yields:
        The path to write to, beside the other. It ends as the other does, as libraries choose a format by that.

    Raises:
        UserError: The file cannot be written.
    """
    # Hidden, so that it is no other file's name, and nobody takes it for a picture.
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} cannot be written: {why}; free the place, or name another.") from error
    finally:
        with suppress(OSError):
            part.unlink()


def absolute(path: str | Path) -> Path:
    """The absolute path. Unlike a resolved one, a link keeps its own name and place.

    Args:
        path: A path.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100
