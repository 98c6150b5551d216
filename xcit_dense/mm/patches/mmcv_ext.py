"""Stand-in for mmcv's compiled operators, on torchvision's kernels.

``mmcv.ops``, and with it ``mmdet.models``, needs the compiled module ``mmcv._ext``, which mmcv-lite
and many source builds lack. :func:`install` adds an importer that is asked last, so a compiled mmcv
always wins. Where there is none, the importer serves ``mmcv._ext`` with the operators of
:mod:`xcit_dense.ops.mmcv`. Every other operator can be imported and raises an error when it is called.

The start-up file loads this file by its path, before the package: this file imports the standard library only. It
keeps no state, so two copies of it do no harm. An operator's module is imported when the operator is called first.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

_MODULE = "mmcv._ext"
_ORIGIN = "xcit_dense's stand-in on torchvision"
_SERVED = {
    "nms": "xcit_dense.ops.mmcv.nms",
    "roi_align_forward": "xcit_dense.ops.mmcv.roi_align",
    "roi_align_backward": "xcit_dense.ops.mmcv.roi_align",
}
"""The module of each operator that is served."""


def install() -> None:
    """Let ``mmcv._ext`` be served from torchvision where mmcv has no compiled operators.

    May be called any number of times, at any moment, also after an import of ``mmcv.ops`` failed.
    Imports neither torch nor mmcv.
    """
    if not any(getattr(finder, "origin", None) == _ORIGIN for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def serving() -> bool:
    """Tell whether ``mmcv._ext`` is the stand-in: the imported one, or the one an import would get.

    Imports nothing.

    Returns:
        True for the stand-in; False for a compiled module, or where neither can be imported.
    """
    if _MODULE in sys.modules:
        spec = getattr(sys.modules[_MODULE], "__spec__", None)
    else:
        # find_spec("mmcv._ext") would import mmcv.
        mmcv = importlib.util.find_spec("mmcv")
        path = mmcv and mmcv.submodule_search_locations
        spec = _ask(sys.meta_path, path) if path else None
    return spec is not None and spec.origin == _ORIGIN


def _ask(finders: Sequence[Any], path: Sequence[str] | None) -> ModuleSpec | None:
    found = (finder.find_spec(_MODULE, path, None) for finder in finders)
    return next((spec for spec in found if spec is not None), None)


class _Finder:
    """Finder and loader of ``mmcv._ext``."""

    origin = _ORIGIN

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        # Finders added since (by an editable install of mmcv, say) go first all the same.
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        return _ask(later, path) or ModuleSpec(fullname, self, origin=_ORIGIN)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(
            {name: _imported_at_first_use(name) for name in _SERVED},
            # mmcv's environment report calls these two.
            get_compiler_version=_no_compiler,
            get_compiling_cuda_version=_no_compiler,
            __getattr__=_unserved,
        )
        # A plain logger, as this mostly runs before a Runner has built its own: with no handler
        # anywhere, logging writes warnings to stderr; mmengine's default would write to stdout.
        logging.getLogger("xcit_dense").warning(
            "xcit_dense: this mmcv has no compiled operators. NMS and RoIAlign run on torchvision; "
            "any other mmcv operator raises an error when called."
        )


def _imported_at_first_use(name: str) -> Callable[..., Any]:
    def operator(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(_SERVED[name]), name)(*args, **kwargs)

    operator.__name__ = operator.__qualname__ = name
    return operator


def _unserved(name: str) -> Callable[..., NoReturn]:
    # mmcv only asserts that its operators are there. Probes (`__path__`, `_pytestfixturefunction`)
    # must fail as usual.
    if name.startswith("_"):
        raise AttributeError(f"module {_MODULE!r} has no attribute {name!r}")

    def operator(*args: Any, **kwargs: Any) -> NoReturn:
        from xcit_dense.ops.mmcv.common import REMEDY

        raise NotImplementedError(
            f"mmcv operator {name!r} is not in {_ORIGIN}, which replaces {_MODULE} because this "
            f"mmcv has no compiled operators. {REMEDY}"
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


def _no_compiler() -> str:
    return f"n/a ({_ORIGIN})"
