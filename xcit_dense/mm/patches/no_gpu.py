"""Lets MMEngine start several processes on a machine without a GPU.

MMEngine calls ``torch.cuda.set_device`` while it joins the processes of a run, with gloo too, and the call fails
without a GPU (``mmengine.dist.utils._init_dist_pytorch``). No option of MMEngine skips the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import cuda


@contextmanager
def without_set_device() -> Iterator[None]:
    """Makes ``torch.cuda.set_device`` do nothing inside the ``with`` statement, and restores the function after it."""
    original = cuda.set_device
    vars(cuda)["set_device"] = _do_nothing
    try:
        yield
    finally:
        vars(cuda)["set_device"] = original


def _do_nothing(device: Any) -> None:
    """Takes the place of ``torch.cuda.set_device``."""
