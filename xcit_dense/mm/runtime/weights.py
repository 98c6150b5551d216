"""Compares checkpoints with models of the MM libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.mm.distributed import unwrap_model
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.loading import COUNTER
from xcit_dense.weights.read import naming, unwrap


@dataclass(frozen=True)
class Differences:
    """What a checkpoint and a model do not have in common, by the names of entries.

    Attributes:
        missing: In the model and not in the checkpoint.
        unknown: In the checkpoint and not in the model.
        reshaped: In both, with different shapes.
    """

    missing: list[str]
    unknown: list[str]
    reshaped: list[str]

    def check_complete(self) -> None:
        """Refuses a checkpoint that does not fill the model.

        Raises:
            UserError: There is a difference.
        """
        faults = [
            list_some(self.missing, "missing"),
            list_some(self.unknown, "unknown"),
            list_some(self.reshaped, "of another shape"),
        ]
        if any(faults):
            raise UserError(
                f"these weights do not fill the model of the config: {'; '.join(filter(None, faults))}. Give a "
                "checkpoint of this config's model, or the config of the checkpoint's model, which is in the work "
                "directory of the checkpoint."
            )


class LoadObserver:
    """Observes the next load of a checkpoint into a model, and finds the differences.

    Modules may rename entries while they load, so only the load itself shows which names are missing.

    Args:
        model: The model, wrapped or not.
        checkpoint: The content of the checkpoint.
    """

    def __init__(self, model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
        self._model = unwrap_model(model)
        self._entries = _entries(checkpoint)
        self._keys: Any = None
        self._handle = self._model.register_load_state_dict_post_hook(self._note)

    def _note(self, _: nn.Module, keys: Any) -> None:
        self._keys = keys

    def finish(self) -> Differences | None:
        """Ends the observation.

        Returns:
            The differences, or None if nothing has been loaded.
        """
        self._handle.remove()
        if self._keys is None:
            return None
        missing = [name for name in self._keys.missing_keys if not name.endswith(COUNTER)]
        unknown = [name for name in self._keys.unexpected_keys if not name.endswith(COUNTER)]
        own = self._model.state_dict()
        reshaped = [
            name
            for name, value in self._entries.items()
            if isinstance(value, Tensor) and name in own and value.shape != own[name].shape
        ]
        for prefix, backbone in _backbones(self._model):
            if backbone.load_report is not None:
                missing += [prefix + name for name in backbone.load_report.missing]
        return Differences(missing, unknown, reshaped)


def load_and_compare(model: nn.Module, checkpoint: dict[str, Any]) -> Differences:
    """Loads a checkpoint into a model, as MMEngine does, and finds the differences.

    Args:
        model: The model.
        checkpoint: The content of the checkpoint.
    """
    observer = LoadObserver(model, checkpoint)
    try:
        _load_checkpoint_to_model(unwrap_model(model), checkpoint, logger="silent")
    finally:
        differences = observer.finish()
    assert differences is not None
    return differences


def load_complete(model: nn.Module, checkpoint: dict[str, Any], source: str) -> None:
    """Loads a checkpoint into a model that is only tested or used.

    Args:
        model: The model.
        checkpoint: The content of the checkpoint, as MMEngine reads it.
        source: The name of the checkpoint for error messages.

    Raises:
        UserError: The checkpoint does not fill the model.
    """
    with naming(source):
        load_and_compare(model, checkpoint).check_complete()


def spread_backbone(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Renames the entries of a single backbone for each backbone of its kind inside a model, in place.

    A module cannot do this in a hook of its own: PyTorch and MMEngine show a module only the entries that begin with
    the name of the module.

    Args:
        model: The model. If it is a backbone itself or does not contain one, nothing changes.
        checkpoint: The content of the checkpoint. If it is not that of a single backbone, nothing changes.
    """
    backbones = [(prefix, backbone) for prefix, backbone in _backbones(unwrap_model(model)) if prefix]
    prefixes = [prefix for prefix, backbone in backbones if "" in backbone.find_roots(checkpoint)]
    if prefixes:
        weights = unwrap(checkpoint)
        checkpoint["state_dict"] = {prefix + name: value for prefix in prefixes for name, value in weights.items()}


def check_backbones(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that does not fit each backbone of a model, before the checkpoint is loaded.

    Args:
        model: The model.
        checkpoint: The content of the checkpoint.

    Raises:
        UserError: As for :meth:`xcit_dense.models.backbone.Backbone.translate`.
    """
    entries = _entries(checkpoint)
    for prefix, backbone in _backbones(unwrap_model(model)):
        backbone.translate(entries, prefix)


def list_some(names: Sequence[str], what: str, shown: int = 3) -> str:
    """Lists the number of names and the first few of them.

    Args:
        names: The names.
        what: What the names have in common.
        shown: The number of names to list.

    Returns:
        The list, or an empty text if there are no names.
    """
    listed = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
    return f"{len(names)} {what} ({listed})" if names else ""


def _entries(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a checkpoint, without the prefix that a wrapper of the saved model adds."""
    return {name.removeprefix("module."): value for name, value in checkpoint.get("state_dict", checkpoint).items()}


def _backbones(model: nn.Module) -> Iterator[tuple[str, Backbone]]:
    """Each backbone of a model, with the prefix of its entries."""
    for name, module in model.named_modules():
        if isinstance(module, Backbone):
            yield f"{name}." if name else "", module
