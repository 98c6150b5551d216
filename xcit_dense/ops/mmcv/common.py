"""What the operators share."""

from __future__ import annotations

import torch
from torch import Tensor

REMEDY = (
    "Install an mmcv with compiled operators that fits this torch: `mim install mmcv`, or build it "
    "from source (https://mmcv.readthedocs.io/en/latest/get_started/installation.html). "
    "A compiled mmcv takes the stand-in's place by itself."
)
"""What to do where an operator is not served."""


def working_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which an operator computes.

    torchvision's CPU kernels lack bfloat16, and NMS in half precision. Sums need at least float32.

    Args:
        tensor: The operator's input.

    Returns:
        float64 for float64, float32 for any other dtype.
    """
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
