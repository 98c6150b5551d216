"""Makes MMEngine use the CPU although it has found an accelerator.

MMEngine chooses the device when ``mmengine.device`` is imported.
An empty ``CUDA_VISIBLE_DEVICES`` hides only GPUs of NVIDIA, and MMEngine documents no call that chooses the CPU.
"""

from __future__ import annotations

from mmengine.device import utils


def install() -> None:
    """Chooses the CPU for the rest of the process. Repeated calls have no further effect."""
    utils.DEVICE = "cpu"
