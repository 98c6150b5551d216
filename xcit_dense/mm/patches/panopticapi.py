"""Serves the part of COCO's panopticapi that MMDetection calls, if panopticapi is not installed.

MMDetection reads panoptic label maps and computes the panoptic quality with panopticapi. PyPI does not have
panopticapi. :func:`install` adds an importer. Python asks this importer last, so an installed panopticapi is always
preferred.

The stand-in has the names that MMDetection imports: ``utils.rgb2id``, ``utils.id2rgb``, ``evaluation.VOID``,
``evaluation.OFFSET`` and ``evaluation.PQStat``. Any other name is missing, as from an incomplete installation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from xcit_dense.datasets import panoptic

_ORIGIN = "xcit_dense's part of panopticapi"
_MODULES: dict[str, dict[str, Any]] = {
    "panopticapi": {},
    "panopticapi.utils": {"rgb2id": panoptic.rgb2id, "id2rgb": panoptic.id2rgb},
    "panopticapi.evaluation": {"VOID": panoptic.VOID, "OFFSET": panoptic.OFFSET, "PQStat": panoptic.PQStat},
}


def install() -> None:
    """Adds the importer. Repeated calls have no further effect."""
    if not any(getattr(finder, "origin", None) == _ORIGIN for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder:
    """Finder and loader of ``panopticapi`` and its two modules."""

    origin = _ORIGIN

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname not in _MODULES:
            return None
        package = fullname == "panopticapi"
        return ModuleSpec(fullname, self, origin=_ORIGIN, is_package=package)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(_MODULES[module.__name__])
