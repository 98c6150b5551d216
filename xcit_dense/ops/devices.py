"""Whether a device is a GPU, where the launch of an operator takes more time than a small operator."""

from __future__ import annotations

import torch


def is_gpu(device: torch.device) -> bool:
    """Returns whether operators on a device are launched, and run while Python continues.

    A CPU computes while Python waits, and the meta device computes nothing.

    Args:
        device: The device of the operands.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.devices import is_gpu
        >>> is_gpu(torch.device("cpu")), is_gpu(torch.device("cuda"))
        (False, True)
    """
    return device.type not in ("cpu", "meta")
