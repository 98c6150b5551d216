"""Serves ``mmcv._ext``, the compiled operators of mmcv, from torchvision if mmcv does not have them.

MMDetection imports ``mmcv.ops`` wherever it does anything, and ``mmcv.ops`` needs the compiled module ``mmcv._ext``.
mmcv-lite and many builds from source do not contain the module
(https://github.com/VBTI-development/onedl-mmdetection/issues/11). :func:`install` adds an importer. Python asks this
importer last, so a compiled mmcv is always preferred. The importer serves ``mmcv._ext`` with the operators of
:mod:`xcit_dense.ops.mmcv`. Every other operator can be imported and raises an error when it is called.

``XCIT_DENSE_OPERATORS=0`` in the environment switches :func:`install` off. Then an mmcv without operators raises its
own ImportError.

The start-up file loads this file by its path, before the package. So this file imports the standard library only. It
keeps no state, so a second copy of it does no harm. The module of an operator is imported when the operator is called.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

SWITCH = "XCIT_DENSE_OPERATORS"
"""The environment variable that switches the stand-in off with the value 0."""

_MODULE = "mmcv._ext"
_ORIGIN = "xcit_dense's stand-in on torchvision"
_SERVED = {
    "bbox_overlaps": "xcit_dense.ops.mmcv.bbox_overlaps",
    "box_iou_quadri": "xcit_dense.ops.mmcv.rotated_boxes",
    "box_iou_rotated": "xcit_dense.ops.mmcv.rotated_boxes",
    "line_nms_forward": "xcit_dense.ops.mmcv.line_nms",
    "nms_match": "xcit_dense.ops.mmcv.nms",
    "nms_quadri": "xcit_dense.ops.mmcv.rotated_boxes",
    "nms_rotated": "xcit_dense.ops.mmcv.rotated_boxes",
    "roi_align_rotated_backward": "xcit_dense.ops.mmcv.roi_align_rotated",
    "roi_align_rotated_forward": "xcit_dense.ops.mmcv.roi_align_rotated",
    "softnms": "xcit_dense.ops.mmcv.nms",
    "ms_deform_attn_backward": "xcit_dense.ops.mmcv.ms_deform_attn",
    "ms_deform_attn_forward": "xcit_dense.ops.mmcv.ms_deform_attn",
    "sigmoid_focal_loss_backward": "xcit_dense.ops.mmcv.focal_loss",
    "sigmoid_focal_loss_forward": "xcit_dense.ops.mmcv.focal_loss",
    "softmax_focal_loss_backward": "xcit_dense.ops.mmcv.focal_loss",
    "softmax_focal_loss_forward": "xcit_dense.ops.mmcv.focal_loss",
    "nms": "xcit_dense.ops.mmcv.nms",
    "roi_align_forward": "xcit_dense.ops.mmcv.roi_align",
    "roi_align_backward": "xcit_dense.ops.mmcv.roi_align",
    "deform_conv_forward": "xcit_dense.ops.mmcv.deform_conv",
    "deform_conv_backward_input": "xcit_dense.ops.mmcv.deform_conv",
    "deform_conv_backward_parameters": "xcit_dense.ops.mmcv.deform_conv",
    "modulated_deform_conv_forward": "xcit_dense.ops.mmcv.deform_conv",
    "modulated_deform_conv_backward": "xcit_dense.ops.mmcv.deform_conv",
    "roi_pool_forward": "xcit_dense.ops.mmcv.roi_pool",
    "roi_pool_backward": "xcit_dense.ops.mmcv.roi_pool",
    "deform_roi_pool_forward": "xcit_dense.ops.mmcv.deform_roi_pool",
    "deform_roi_pool_backward": "xcit_dense.ops.mmcv.deform_roi_pool",
    "masked_im2col_forward": "xcit_dense.ops.mmcv.masked_conv",
    "masked_col2im_forward": "xcit_dense.ops.mmcv.masked_conv",
    "psamask_forward": "xcit_dense.ops.mmcv.psamask",
    "psamask_backward": "xcit_dense.ops.mmcv.psamask",
    "carafe_forward": "xcit_dense.ops.mmcv.carafe",
    "carafe_backward": "xcit_dense.ops.mmcv.carafe",
    "carafe_naive_forward": "xcit_dense.ops.mmcv.carafe",
    "carafe_naive_backward": "xcit_dense.ops.mmcv.carafe",
    "sync_bn_forward_mean": "xcit_dense.ops.mmcv.sync_bn",
    "sync_bn_forward_var": "xcit_dense.ops.mmcv.sync_bn",
    "sync_bn_forward_output": "xcit_dense.ops.mmcv.sync_bn",
    "sync_bn_backward_param": "xcit_dense.ops.mmcv.sync_bn",
    "sync_bn_backward_data": "xcit_dense.ops.mmcv.sync_bn",
}
"""The module of each operator that is served."""


def install() -> None:
    """Adds the importer of ``mmcv._ext``, unless ``XCIT_DENSE_OPERATORS=0`` is set.

    Repeated calls have no further effect. The call works at any moment, also after an import of ``mmcv.ops`` failed.
    It imports neither torch nor mmcv.
    """
    is_there = any(getattr(finder, "origin", None) == _ORIGIN for finder in sys.meta_path)
    if not is_there and os.environ.get(SWITCH) != "0":
        sys.meta_path.append(_Finder())


def serving() -> bool:
    """Returns whether ``mmcv._ext`` is the stand-in: the imported module, or the module that an import would return.

    Imports nothing.

    Returns:
        True for the stand-in. False for a compiled module, or if neither can be imported.
    """
    if _MODULE in sys.modules:
        spec = getattr(sys.modules[_MODULE], "__spec__", None)
    else:
        # find_spec("mmcv._ext") would import mmcv.
        mmcv = importlib.util.find_spec("mmcv")
        path = mmcv and mmcv.submodule_search_locations
        spec = _ask(sys.meta_path, path) if path else None
    return spec is not None and spec.origin == _ORIGIN


def served() -> int:
    """Returns the number of operators in the stand-in."""
    return len(_SERVED)


def serves(name: str) -> bool:
    """Returns whether the stand-in has an operator.

    Args:
        name: The name of the operator in ``mmcv._ext``.
    """
    return name in _SERVED


def _ask(finders: Sequence[Any], path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in finders:
        spec: ModuleSpec | None = finder.find_spec(_MODULE, path, None)
        if spec is not None:
            return spec
    return None


class _Finder:
    """Finder and loader of ``mmcv._ext``."""

    origin = _ORIGIN

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        # An editable install of mmcv may have added its finder after this one. That finder is asked first too.
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        return _ask(later, path) or ModuleSpec(fullname, self, origin=_ORIGIN)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(
            {name: _imported_at_first_use(name) for name in _SERVED},
            # mmcv's environment report calls these two functions.
            get_compiler_version=_no_compiler,
            get_compiling_cuda_version=_no_compiler,
            __getattr__=_unserved,
        )
        # At level INFO, which Python's logging does not print by default: most models need no other operator, and a
        # call of a missing operator raises an error with the same text.
        logging.getLogger("xcit_dense").info(
            f"xcit_dense: this mmcv has no compiled operators. {served()} of them run on torchvision and PyTorch; "
            "any other mmcv operator raises an error when called."
        )


def _imported_at_first_use(name: str) -> Callable[..., Any]:
    def operator(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(_SERVED[name]), name)(*args, **kwargs)

    operator.__name__ = operator.__qualname__ = name
    return operator


def _unserved(name: str) -> Callable[..., NoReturn]:
    # mmcv only asserts that its operators exist. Lookups of other tools (`__path__`, `_pytestfixturefunction`) must
    # fail as usual.
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
