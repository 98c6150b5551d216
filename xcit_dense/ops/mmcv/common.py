"""The parts that all operators use."""

from __future__ import annotations

import torch
from torch import Tensor

REMEDY = (
    "Install an mmcv with compiled operators that fits this torch: `mim install mmcv`, or build it "
    "from source (https://mmcv.readthedocs.io/en/latest/get_started/installation.html). "
    "A compiled mmcv is used as soon as it is installed."
)
"""The remedy in the error of an operator that is not served."""


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Returns the dtype in which an operator computes.

    torchvision's CPU kernels do not support bfloat16, and its NMS does not support float16. Sums need at least float32.

    Args:
        tensor: The input of the operator.

    Returns:
        float64 for float64, and float32 for any other dtype.
    """
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
