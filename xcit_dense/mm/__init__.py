"""XCiT in MMDetection and MMSegmentation: the module that configs import.

``custom_imports = dict(imports=['xcit_dense.mm'])`` registers everything that configs name. It also applies the
patches of :mod:`xcit_dense.mm.patches` to the MM libraries.
"""

from __future__ import annotations

from importlib.util import find_spec

from xcit_dense.errors import INSTALL_MM, MissingLibraryError
from xcit_dense.mm import patches

if find_spec("mmengine") is None or find_spec("mmcv") is None:
    raise MissingLibraryError(
        "xcit_dense.mm needs MMEngine, MMCV and MMDetection or MMSegmentation, which are not installed; "
        f"write {INSTALL_MM}."
    )
# Before the first import of mmcv's operators.
patches.apply()

from xcit_dense.mm import backbone, bands, loading, necks  # noqa: E402, F401
from xcit_dense.mm.hooks import (  # noqa: E402, F401
    checkpointing,
    deploy,
    draw_images,
    history,
    learning_curve,
    progress,
    reproducible,
    weight_check,
    winograd,
)
from xcit_dense.mm.inference import tta  # noqa: E402, F401
from xcit_dense.mm.registration import register_when_used  # noqa: E402
from xcit_dense.mm.runtime import fsdp, optim  # noqa: E402, F401

register_when_used("mmseg", "xcit_dense.mm.heads")
register_when_used("mmseg", "xcit_dense.mm.segmentors")
register_when_used("mmseg", "xcit_dense.mm.streaming.training")
register_when_used("mmdet", "xcit_dense.mm.roi_heads")
