"""XCiT for dense prediction: the backbone, its pyramid and its published weights.

``from xcit_dense import XCiT`` needs torch and timm. ``import xcit_dense`` alone imports neither of them: each public
name is imported at its first use. ``import xcit_dense.mm`` registers the backbone in MMDetection and MMSegmentation.

The folders, from bottom to top; each imports only from those before it:

- ``utils``: atomic file writes, progress, tables, ranks.
- ``ops``, ``weights``: numbers without architecture; checkpoint files and published names.
- ``models``: XCiT, its blocks and its pyramid.
- ``media``, ``visualization``, ``predictions``: files, drawings, and the objects that predictions are.
- ``rasters``: images of any size, read and written by windows.
- ``streaming``: the levels of one image that is too large for the memory.
- ``inference``: models that only predict. ``datasets`` and ``integrations`` are on the same level.
- ``mm``: everything that touches MMEngine, MMCV, MMDetection and MMSegmentation.
- ``cli``, ``benchmark``: command lines and measurements.
- ``api``: :func:`load`, :func:`predict_large` and :func:`train`, the same for Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xcit_dense import moved

if TYPE_CHECKING:
    from xcit_dense.api.large import predict_large
    from xcit_dense.api.loading import load
    from xcit_dense.api.training import train
    from xcit_dense.errors import UserError
    from xcit_dense.inference.deploy import deploy
    from xcit_dense.models.coat import CoaT
    from xcit_dense.models.pretrained import load_weights
    from xcit_dense.models.token_pyramid import TokenPyramid
    from xcit_dense.models.xcit import XCiT
    from xcit_dense.streaming.stream import stream
    from xcit_dense.variants import VARIANTS
    from xcit_dense.weights.zoo import list_weights

__all__ = [
    "VARIANTS",
    "CoaT",
    "TokenPyramid",
    "UserError",
    "XCiT",
    "__version__",
    "deploy",
    "list_weights",
    "load",
    "load_weights",
    "predict_large",
    "stream",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "CoaT": "xcit_dense.models.coat",
    "TokenPyramid": "xcit_dense.models.token_pyramid",
    "VARIANTS": "xcit_dense.variants",
    "UserError": "xcit_dense.errors",
    "XCiT": "xcit_dense.models.xcit",
    "deploy": "xcit_dense.inference.deploy",
    "list_weights": "xcit_dense.weights.zoo",
    "load": "xcit_dense.api.loading",
    "load_weights": "xcit_dense.models.pretrained",
    "predict_large": "xcit_dense.api.large",
    "stream": "xcit_dense.streaming.stream",
    "train": "xcit_dense.api.training",
}
"""The module of each public name."""

moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
