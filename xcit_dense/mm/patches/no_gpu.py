"""Keeps MMEngine from choosing a GPU in a distributed run on a machine without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import cuda


@contextmanager
def without_set_device() -> Iterator[None]:
    """Makes ``torch.cuda.set_device`` do nothing inside the context.

    ``mmengine.dist.init_dist`` calls this function also if the backend is gloo. Without a GPU the call fails.
    """
    original = cuda.set_device
    cuda.set_device = lambda device: None
    try:
        yield
    finally:
        cuda.set_device = original
