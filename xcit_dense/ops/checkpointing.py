"""Activation checkpointing with batch norms that record each batch once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Makes the contexts of a block's forward pass and of its recomputation in the backward pass.

    Args:
        block: A module. The contexts keep its batch norms from recording a batch twice.

    Returns:
        What ``torch.utils.checkpoint.checkpoint`` expects of its argument ``context_fn``.
    """
    return nullcontext(), _keep_statistics(block)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """Lets batch norms record the batch in copies of their statistics, because the forward pass has recorded it."""
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
