"""Options of a benchmark of a complete model."""

from __future__ import annotations

from dataclasses import dataclass

from xcit_dense.benchmark.options import Conditions


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Conditions):
    """The options of a benchmark of a detector or segmentor."""

    model: str  # the config's name
    instances: int | None = None  # objects that a detector finds in each image; None leaves it to the config

    @property
    def subject(self) -> str:
        """The name of what is measured."""
        found = "" if self.instances is None else f", {self.instances} objects found"
        return f"{self.model}{found}"
