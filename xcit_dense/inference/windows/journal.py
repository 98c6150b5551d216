"""Records which rows of windows are done, so that a killed run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xcit_dense.errors import UserError
from xcit_dense.utils.files import atomic_write

Record = dict[str, Any]
"""One row of windows: its number ``row``, the ``failed`` and ``skipped`` windows, and the ``objects`` of a detector."""

_RUN = "run.json"


def begin(directory: Path, facts: Mapping[str, str]) -> None:
    """Records what a run depends on: the fingerprint.

    Args:
        directory: The directory for the parts of the run.
        facts: A text for each thing on which the results depend.

    Raises:
        UserError: The file cannot be written.
    """
    with atomic_write(directory / _RUN) as part:
        part.write_text(json.dumps(dict(facts), indent=1) + "\n")


def check(directory: Path, facts: Mapping[str, str]) -> None:
    """Refuses to go on with a run that depended on something else.

    Args:
        directory: The directory that :func:`begin` wrote to.
        facts: As for :func:`begin`.

    Raises:
        UserError: The parts belong to another run. The message names the first difference.

    Example:
        >>> begin(Path("parts"), {"--overlap": "128"})
        >>> check(Path("parts"), {"--overlap": "64"})
        Traceback (most recent call last):
        ...
        xcit_dense.errors.UserError: parts is of a run with another --overlap: 128, not 64. Go on with that one, or ...
    """
    try:
        before = json.loads((directory / _RUN).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{directory} is not of a run by windows that can go on; remove it, or name another --out."
        ) from None
    for name in (*facts, *before):
        if before.get(name) != facts.get(name):
            raise UserError(
                f"{directory} is of a run with another {name}: {before.get(name)}, not {facts.get(name)}. Go on with "
                "that one, or write another --out."
            )


class Journal:
    """The rows of windows of one image that are done. Each process appends to a file of its own.

    Args:
        directory: The directory for the parts of the image. It exists.
        rank: The number of the process.

    Example:
        >>> journal = Journal(Path("."), rank=0)
        >>> journal.append({"row": 3, "skipped": 1})
        >>> sorted(Journal(Path("."), rank=1).done()), journal.read(3)["skipped"]
        ([3], 1)
    """

    def __init__(self, directory: Path, rank: int) -> None:
        self._directory = directory
        self._path = directory / f"rows-{rank}.jsonl"

    def done(self) -> Mapping[int, tuple[Path, int]]:
        """The rows that are done, of all processes, each with the file and the byte of its record."""
        return {record["row"]: place for record, place in self._records()}

    def read(self, row: int) -> Record:
        """Reads the record of a row.

        Args:
            row: The number of a row that is done.
        """
        path, start = self.done()[row]
        with path.open("rb") as file:
            file.seek(start)
            return json.loads(file.readline())

    def in_order(self) -> Iterator[Record]:
        """Reads all records in the order of the rows, one at a time.

        Yields:
            The records.
        """
        for _, (path, start) in sorted(self.done().items()):
            with path.open("rb") as file:
                file.seek(start)
                yield json.loads(file.readline())

    def append(self, record: Record) -> None:
        """Appends the record of a row. When this returns, the record is on the disk.

        Args:
            record: The record.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._path.open("a+b") as file:
            # A killed process leaves an unfinished line. Without its end, the line would damage this one.
            complete = _end_of_lines(self._path)
            file.truncate(complete)
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self._path, complete)
                raise

    def _records(self) -> Iterator[tuple[Record, tuple[Path, int]]]:
        for path in sorted(self._directory.glob("rows-*.jsonl")):
            start = 0
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield json.loads(line), (path, start)
                    start += len(line)


def _end_of_lines(path: Path) -> int:
    """The number of bytes up to the end of the last complete line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for end in range(size, 0, -(1 << 16)):
            start = max(0, end - (1 << 16))
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
    return 0
