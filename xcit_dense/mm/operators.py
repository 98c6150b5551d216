"""Stand-in for mmcv's compiled operators, on torchvision's kernels.

``mmcv.ops``, and with it ``mmdet.models``, needs the compiled module ``mmcv._ext``, which mmcv-lite
and many source builds lack. :func:`install` adds an importer that is asked last, so a compiled mmcv
always wins; where there is none, it serves ``mmcv._ext`` with the operators Mask R-CNN needs (NMS
and RoIAlign). Every other operator can be imported and raises an error when it is called.

This file may be loaded by its path, at any start of Python and before its package: it imports the
standard library only, and keeps no state, so that two copies of it do no harm.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

_MODULE = "mmcv._ext"
_ORIGIN = "xcit_dense's stand-in on torchvision"
_REMEDY = (
    "Install an mmcv with compiled operators that fits this torch: `mim install mmcv`, or build it "
    "from source (https://mmcv.readthedocs.io/en/latest/get_started/installation.html). "
    "A compiled mmcv takes the stand-in's place by itself."
)


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
            nms=nms,
            roi_align_forward=roi_align_forward,
            roi_align_backward=roi_align_backward,
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


def _unserved(name: str) -> Callable[..., NoReturn]:
    # mmcv only asserts that its operators are there. Probes (`__path__`, `_pytestfixturefunction`)
    # must fail as usual.
    if name.startswith("_"):
        raise AttributeError(f"module {_MODULE!r} has no attribute {name!r}")

    def operator(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"mmcv operator {name!r} is not in {_ORIGIN}, which replaces {_MODULE} because this "
            f"mmcv has no compiled operators. {_REMEDY}"
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


def _no_compiler() -> str:
    return f"n/a ({_ORIGIN})"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap a better one, as ``mmcv._ext.nms`` does.

    Args:
        boxes: (N, 4) corners x1, y1, x2, y2; any floating type.
        scores: (N,).
        iou_threshold: a box is dropped if its IoU with a better kept box is larger than this.
        offset: 0, or 1 for inclusive pixel corners: a side is x2 - x1 + offset.

    Returns:
        (K,) int64 indices of the kept boxes, best first; equal scores in order of input.
    """
    import torch
    import torchvision

    dtype = _working_dtype(boxes)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        # Moving the far corner turns inclusive corners into exclusive ones, for unions too.
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in the boxes' precision: at 0.6, an IoU of 0.6 is not larger. torchvision
    # would compare float32 IoU with a double threshold.
    threshold = torch.tensor(iou_threshold, dtype=dtype).item()
    return torchvision.ops.nms(boxes, scores, threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool features under boxes into `output`, as ``mmcv._ext.roi_align_forward`` does.

    Args:
        input: (B, C, H, W) features; any floating type, pooled in float32 at least.
        rois: (K, 5) image index, x1, y1, x2, y2, in pixels of the picture.
        output: (K, C, aligned_height, aligned_width); overwritten.
        argmax_y: not used (of maximum pooling only).
        argmax_x: not used.
        aligned_height: rows of bins of an RoI.
        aligned_width: columns of bins of an RoI.
        spatial_scale: feature cells per pixel.
        sampling_ratio: samples along each side of a bin; 0 for as many as it has cells.
        pool_mode: 1, the average of the samples.
        aligned: whether cell centres lie at half-integer coordinates.

    Raises:
        NotImplementedError: if `pool_mode` is 0, the maximum.
    """
    import torch
    import torchvision  # noqa: F401  (registers torch.ops.torchvision)

    if pool_mode != 1:
        raise NotImplementedError(
            f"mmcv operator 'roi_align' with pool_mode='max' is not in {_ORIGIN}; write pool_mode='avg'. {_REMEDY}"
        )
    dtype = _working_dtype(input)
    # The registered operator, as in the backward: torchvision's Python wrapper leaves its kernel
    # for a slow, memory-hungry form under deterministic algorithms, yet the kernel is one.
    output.copy_(
        torch.ops.torchvision.roi_align(
            input.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the features' gradient into `grad_input`, as ``mmcv._ext.roi_align_backward`` does.

    Args:
        grad_output: (K, C, aligned_height, aligned_width) gradient of the pooled features.
        rois: see :func:`roi_align_forward`, as for all that follow but `grad_input`.
        argmax_y: not used.
        argmax_x: not used.
        grad_input: (B, C, H, W); overwritten.
        aligned_height: rows of bins of an RoI.
        aligned_width: columns of bins of an RoI.
        spatial_scale: feature cells per pixel.
        sampling_ratio: samples along each side of a bin, or 0.
        pool_mode: 1, the average; the forward refused any other.
        aligned: whether cell centres lie at half-integer coordinates.
    """
    import torch
    import torchvision  # noqa: F401  (registers torch.ops.torchvision)

    dtype = _working_dtype(grad_output)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _working_dtype(tensor: Tensor) -> Any:
    # torchvision's CPU kernels lack bfloat16, and half-precision NMS; sums want float32 anyway.
    import torch

    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
