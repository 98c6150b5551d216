"""Atomic file writes, absolute paths, and the visible files below a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xcit_dense.errors import UserError

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Writes a file atomically: the file appears when all of its content is written.

    The block writes to a hidden file next to the target. If the block succeeds, the hidden file replaces the target. If
    the block fails, the hidden file is removed and the target keeps its previous content.

    Args:
        path: The target. Its directory is created.

    Yields:
        The hidden path to write to. The hidden path has the target's suffix, because libraries choose a format by the
        suffix.

    Raises:
        UserError: The target cannot be written. An OSError of the block counts as a failed write if the error names the
            hidden path, or if the error names no path and reports a full or broken disk. Every other error of the block
            propagates unchanged: a missing input file stays a FileNotFoundError.

    Example:
        >>> with atomic_write(Path("results/metrics.txt")) as part:
        ...     _ = part.write_text("mAP 0.5")
        >>> Path("results/metrics.txt").read_text()
        'mAP 0.5'
    """
    # A hidden name does not collide with another output, and is not picked up as an input image.
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(path, error) from error
        try:
            yield part
        except OSError as error:
            if _is_write_error(error, part):
                raise _cannot_write(path, error) from error
            raise
        try:
            part.replace(path)
        except OSError as error:
            raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written: {error.strerror or error}; free some space, or name another path.")


def _is_write_error(error: OSError, part: Path) -> bool:
    """Whether an error comes from writing ``part``, not from another file that the block uses."""
    names = [name for name in (error.filename, error.filename2) if name is not None]
    if names:
        return any(not isinstance(name, int) and absolute(os.fsdecode(name)) == absolute(part) for name in names)
    if error.errno is None:
        # Pillow reports a full disk as a plain OSError without a number. Errors of reading are subclasses:
        # PIL.UnidentifiedImageError, urllib.error.URLError.
        return type(error) is OSError
    return error.errno in _WRITE_ERRORS


def absolute(path: str | Path) -> Path:
    """Makes a path absolute. Unlike ``Path.resolve``, this does not follow links.

    Args:
        path: A path.

    Returns:
        The absolute path.
    """
    return Path(os.path.abspath(path))  # noqa: PTH100


def visible_files(directory: Path) -> Iterator[Path]:
    """Finds the files in and below a directory. Follows links to directories.

    Names that begin with a dot are passed over: files such as ``._a.jpg``, which macOS writes next to ``a.jpg``, and
    directories such as ``.ipynb_checkpoints``, in which Jupyter keeps copies.

    Args:
        directory: The directory.

    Yields:
        The files, sorted by name in each directory. Files in a directory come before files in its subdirectories.

    Example:
        >>> Path("photos/trip").mkdir(parents=True)
        >>> for name in ("a.jpg", "._a.jpg", "trip/b.jpg"):
        ...     Path("photos", name).touch()
        >>> [path.as_posix() for path in visible_files(Path("photos"))]
        ['photos/a.jpg', 'photos/trip/b.jpg']
    """
    yield from _visible_files(directory, frozenset())


def _visible_files(directory: Path, above: frozenset[str]) -> Iterator[Path]:
    resolved = os.path.realpath(directory)
    if resolved in above:  # a link to a directory above makes a cycle
        return
    directories = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            directories.append(path)
        else:
            yield path
    for path in directories:
        yield from _visible_files(path, above | {resolved})
