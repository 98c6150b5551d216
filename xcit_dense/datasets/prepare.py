"""Files that are made from a user's data once and used by all processes of a run, and by later runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

_VERSION = 1  # raise this number when the same sources give other files


def prepare(directory: Path, name: str, sources: Iterable[Path], settings: Any, write: Callable[[Path], None]) -> Path:
    """Returns a directory of files made from other files. Makes the directory if it does not exist or is out of date.

    Several processes may call this function at the same time: one of them writes, the others wait. An interrupted
    process leaves no incomplete directory under the returned name. A directory with the same name and settings
    but other sources is removed. Other settings keep the directory, because the config of an earlier run may name it.

    Args:
        directory: Where the directory is made, for example ``WORK_DIR/data``.
        name: The beginning of the directory's name.
        sources: The files that the made files depend on. A changed time or size is noticed.
        settings: What else the made files depend on: any value that JSON can represent.
        write: Writes the files into the directory it gets.

    Returns:
        The complete directory.

    Example:
        >>> _ = Path("source.txt").write_text("a b")
        >>> def count(made):
        ...     _ = (made / "count").write_text(str(len(Path("source.txt").read_text().split())))
        >>> made = prepare(Path("work/data"), "counts", [Path("source.txt")], {}, count)
        >>> (made / "count").read_text()
        '2'
    """
    directory.mkdir(parents=True, exist_ok=True)
    code = hashlib.sha256(json.dumps([_VERSION, settings], sort_keys=True).encode()).hexdigest()
    stem = f"{name}_{code[:8]}"
    final = directory / f"{stem}-{_fingerprint(sources)}"
    with FileLock(directory / f".{stem}.lock"):
        if final.is_dir():
            return final
        for outdated in directory.glob(f"{stem}-*"):
            shutil.rmtree(outdated)
        part = directory / f".{stem}.part"
        shutil.rmtree(part, ignore_errors=True)  # an interrupted process has left it
        part.mkdir()
        write(part)
        part.rename(final)
    return final


def _fingerprint(sources: Iterable[Path]) -> str:
    """Twelve characters that change with the sources."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        status = source.stat()
        digest.update(f"{source.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]
