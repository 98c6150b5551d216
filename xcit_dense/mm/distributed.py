"""Helpers for runs of several processes."""

from __future__ import annotations

from pathlib import Path

from mmengine import dist
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from xcit_dense.utils.ranks import is_local_rank_zero
from xcit_dense.weights.resolve import resolve


def resolve_once(checkpoint: str) -> Path:
    """Resolves the name of a checkpoint in several processes. One process of each machine downloads; the others wait.

    Args:
        checkpoint: As for :func:`xcit_dense.weights.resolve.resolve`.

    Returns:
        The path of the file.

    Raises:
        UserError: As for :func:`xcit_dense.weights.resolve.resolve`.
    """
    path = resolve(checkpoint) if is_local_rank_zero() else None
    dist.barrier()
    return path or resolve(checkpoint)


def unwrap_model(model: nn.Module) -> nn.Module:
    """Returns the model inside MMEngine's wrappers, which distribute a model or augment its tests.

    Args:
        model: The model, wrapped or not.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule("module")
    return model
