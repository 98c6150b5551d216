"""What a check finds: kinds of faults, with their numbers and places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PLACES = 3  # the number of places that a report lists for each fault
_MARKS = 12  # the number of places that can be drawn for each fault


@dataclass(frozen=True)
class Mark:
    """A place of a fault that can be drawn on its image.

    Attributes:
        image: The image file, which may be missing.
        box: The corners x1, y1, x2, y2 in pixels of the upright image. None if the fault concerns the complete image.
        polygons: Each polygon as x, y, x, y and so on, in pixels of the upright image.
    """

    image: Path
    box: tuple[float, float, float, float] | None = None
    polygons: Sequence[Sequence[float]] = ()


@dataclass
class Fault:
    """One kind of fault.

    Attributes:
        is_error: Whether the fault is an error. Otherwise the fault is a warning.
        count: How often the fault occurs.
        places: The first places where the fault occurs.
        marks: The first places that can be drawn, by the same words as in ``places``.
    """

    is_error: bool
    count: int = 0
    places: list[str] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)


@dataclass
class Report:
    """The faults of one split.

    Attributes:
        source: The annotation file or the directory.
        summary: The numbers of images, objects and classes.
        faults: The faults by their description.
    """

    source: Path
    summary: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """The number of kinds of errors."""
        return sum(fault.is_error for fault in self.faults.values())

    def error(self, what: str, where: str, mark: Mark | None = None) -> None:
        """Adds an error.

        Args:
            what: The description, in the plural.
            where: The place.
            mark: The place as it can be drawn. None if the fault does not belong to an image.
        """
        self._add(what, where, True, mark)

    def warning(self, what: str, where: str, mark: Mark | None = None) -> None:
        """Adds a warning.

        Args:
            what: The description, in the plural.
            where: The place.
            mark: The place as it can be drawn. None if the fault does not belong to an image.
        """
        self._add(what, where, False, mark)

    def _add(self, what: str, where: str, is_error: bool, mark: Mark | None) -> None:
        fault = self.faults.setdefault(what, Fault(is_error))
        fault.count += 1
        if len(fault.places) < _PLACES:
            fault.places.append(where)
        if mark is not None and len(fault.marks) < _MARKS:
            fault.marks[where] = mark

    def __str__(self) -> str:
        """The summary, then one line for each fault, errors first."""
        lines = [f"{self.source}: {self.summary}"]
        for what, fault in sorted(self.faults.items(), key=lambda item: not item[1].is_error):
            more = "; ..." if fault.count > len(fault.places) else ""
            kind = "error" if fault.is_error else "warning"
            lines.append(f"  {kind:7}  {what}: {fault.count:,} ({'; '.join(fault.places)}{more})")
        return "\n".join(lines)
