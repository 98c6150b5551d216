"""XCiT in MMDetection and MMSegmentation.

Importing this module registers what configs name: the backbone ``XCiT``, the optimizer wrapper
``AutoAmpOptimWrapper``, its constructor ``XCiTLayerDecay``, the strategy ``XCiTFSDPStrategy``, and the hooks
``LearningCurveHook``, ``CheckWeightsHook``, ``DeployHook``, ``ProgressHook``, ``ReproducibleHook``, ``PicturesHook``,
``ShortHistoryHook`` and ``WholeCheckpointHook``. It also makes MMEngine read checkpoints without executing what a
pickle can hold, and mmcv name the pictures that it cannot read. Configs import it themselves, by
``custom_imports = dict(imports=['xcit_dense.mm'])``.
"""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import INSTALL_MM, MissingLibraryError
from . import operators

if find_spec("mmengine") is None or find_spec("mmcv") is None:
    raise MissingLibraryError(
        "xcit_dense.mm needs MMEngine, MMCV and MMDetection or MMSegmentation, which are not installed; "
        f"write {INSTALL_MM}."
    )
# Before anything imports mmcv's operators.
operators.install()

from . import backbone, checkpoint, checkpointing, hooks, loading, optim, pictures, progress, reproduce, strategies  # noqa: E402

__all__ = [
    "backbone",
    "checkpoint",
    "checkpointing",
    "hooks",
    "loading",
    "operators",
    "optim",
    "pictures",
    "progress",
    "reproduce",
    "strategies",
]
