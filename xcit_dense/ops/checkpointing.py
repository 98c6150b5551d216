"""Activation checkpointing that counts each batch once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    pass


def recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of a block's forward pass and of its repetition in the backward pass (activation checkpointing).

    Args:
        block: A module, whose batch norms are to count each batch once.
    """
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Lets batch norms record the batch's statistics in copies, to throw away: the forward pass already did."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    buffers = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, own in zip(norms, buffers):
        for name, value in own.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, own in zip(norms, buffers):
            for name, value in own.items():
                setattr(norm, name, value)
