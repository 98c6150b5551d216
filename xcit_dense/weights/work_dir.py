"""Finds the checkpoint in a work directory from which a training continues."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from xcit_dense.weights.safe_load import load_allowed


def last_intact_checkpoint(work_dir: str | Path) -> Path | None:
    """Finds the intact checkpoint that was saved last.

    The content of the files decides. Their modification times do not, because a copy changes them. Their names do not
    either, because an earlier run may have left files in the same directory. Files that were cut short are skipped.
    ``best_*.pth`` are skipped too, because they do not contain the state of the optimizer.

    Args:
        work_dir: The directory. If it does not contain a checkpoint, the directory that MMEngine's file
            ``last_checkpoint`` names is searched.

    Returns:
        The file, or the directory of a checkpoint in shards. None if there is no intact checkpoint.
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
        if path.is_dir() and path.suffix == ".pth":  # in shards, which are renamed together, so all are there
            return path
    return None


def read_iteration(path: Path) -> int | None:
    """Reads after how many iterations a training has saved a checkpoint. None for other files.

    Args:
        path: The file.
    """
    meta = _read_meta(path) if path.is_file() else None
    return int(meta["iter"]) if meta else None


def _read_meta(path: Path) -> dict[str, Any] | None:
    """Reads the metadata of a training's checkpoint without its tensors. Returns None if it cannot be read."""
    try:
        checkpoint = load_allowed(path, "cpu", mmap=True)
        meta = checkpoint["meta"]
        # A checkpoint that MMEngine has prepared for publication has a "meta" too, but not the state of the training.
        return meta if isinstance(meta["iter"], int) and "message_hub" in checkpoint else None
    except Exception:  # the type of torch's error depends on the bytes of the file
        return None


def _is_intact(path: Path) -> bool:
    """Returns whether each part of a checkpoint has the right checksum.

    After a power cut, a file may have its length without its content.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False
