"""Checkpoints compared with models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.mm.distributed import unwrap_model
from xcit_dense.models.state_dict import translate
from xcit_dense.models.xcit import XCiT
from xcit_dense.weights.read import naming


def load_complete(model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
    """Loads a checkpoint into a model that only tests.

    Args:
        model: The model.
        checkpoint: What MMEngine has read.
        source: What errors call it.

    Raises:
        UserError: The checkpoint does not fill the model, as for :class:`CheckWeightsHook`.
    """
    with naming(source):
        _refuse(*_compare(model, checkpoint))


def _refuse(missing: Sequence[str], unknown: Sequence[str], reshaped: Sequence[str]) -> None:
    faults = [_some(missing, "missing"), _some(unknown, "unknown"), _some(reshaped, "of another shape")]
    if any(faults):
        raise UserError(
            f"these weights do not fill the model of the config: {'; '.join(filter(None, faults))}. Give a "
            "checkpoint of this config's model, or the config of the checkpoint's, which lies in its work directory."
        )


def _compare(model: nn.Module, checkpoint: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Names missing from a checkpoint, unknown to the model, and of another shape.

    What modules rename while they load is known only by loading.
    """
    model = unwrap_model(model)
    found: list[Any] = []
    handle = model.register_load_state_dict_post_hook(lambda _, keys: found.append(keys))
    try:
        _load_checkpoint_to_model(model, checkpoint, logger="silent")
    finally:
        handle.remove()
    missing, unknown = ([name for name in names if not name.endswith("num_batches_tracked")] for names in found[-1])
    own = model.state_dict()
    state = {name.removeprefix("module."): value for name, value in checkpoint.get("state_dict", checkpoint).items()}
    reshaped = [
        name
        for name, value in state.items()
        if isinstance(value, Tensor) and name in own and value.shape != own[name].shape
    ]
    for prefix, module in model.named_modules():
        if isinstance(module, XCiT):
            prefix = f"{prefix}." if prefix else ""
            missing += [prefix + name for name in translate(state, prefix, module.state_dict())[1].missing]
    return missing, unknown, reshaped


def _some(names: Sequence[str], what: str, shown: int = 3) -> str:
    """How many names there are, and the first few; nothing of none."""
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names)} {what} ({listed})" if names else ""
