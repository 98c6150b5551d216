"""What a training has left in its work directory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from xcit_dense.weights.safe_load import load_allowed


def last_intact_checkpoint(work_dir: str | Path) -> Path | None:
    """Finds the checkpoint from which a training goes on: of those that are whole, the one saved last.

    By what the files themselves say, not by their times, which copies change, nor by their names alone, which an
    earlier run in the same directory may have left. Files that were cut short are passed over, and so are
    ``best_*.pth``, which have no state of the optimizer.

    Args:
        work_dir: The directory. Where it has no checkpoint, it is that of MMEngine's file ``last_checkpoint`` in it.

    Returns:
        The file, or for a checkpoint in shards the directory; None where no checkpoint is whole.
    """
    work_dir = Path(work_dir)
    pointer = work_dir / "last_checkpoint"
    text = pointer.read_text(errors="replace").strip("\0\n ") if pointer.is_file() else ""
    named = Path(text) if text else None
    for directory in (work_dir, named.parent) if named else (work_dir,):
        found: list[tuple[str, int, Path]] = []
        for path in directory.glob("*.pth"):
            meta = _read_meta(path) if path.is_file() and not path.name.startswith("best_") else None
            if meta:
                found.append((str(meta.get("time", "")), meta["iter"], path))
        for *_, path in sorted(found, reverse=True):
            if _is_intact(path):
                return path
    for path in (named, work_dir / named.name) if named else ():
        if path.is_dir() and path.suffix == ".pth":  # in shards, which were renamed together
            return path
    return None


def _read_meta(path: Path) -> dict[str, Any] | None:
    """What a training's checkpoint says about itself, read without its tensors; None where it cannot be read."""
    try:
        checkpoint = load_allowed(path, "cpu", mmap=True)
        meta = checkpoint["meta"]
        # One that MMEngine published has a "meta" too, but no training's state.
        return meta if isinstance(meta["iter"], int) and "message_hub" in checkpoint else None
    except Exception:  # what torch raises on a file that is no checkpoint depends on its bytes
        return None


def _is_intact(path: Path) -> bool:
    """Whether each part of a checkpoint has its checksum: after a power cut a file may have its length alone."""
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False
