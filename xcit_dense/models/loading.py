"""Loading weights into a backbone: what each backbone's dialects have in common.

A dialect is a way to name the entries of a checkpoint. The dialects of each backbone are in modules of their own:
:mod:`xcit_dense.models.state_dict` has XCiT's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, strided

from xcit_dense.errors import UserError
from xcit_dense.weights.read import unwrap

LEVELS = ("fpn1", "fpn2", "fpn3", "fpn4", "fpn5")
"""Names of the modules of the pyramid."""
PYRAMID = tuple(f"{level}." for level in LEVELS)
"""The beginnings of the names of the pyramid's weights."""
COUNTER = "num_batches_tracked"
"""The end of the names of batch norm's counters. The oldest checkpoints do not have them, and they have no effect."""


@dataclass(frozen=True)
class Report:
    """The result of a load, as names of entries.

    Attributes:
        matched: Entries that were loaded.
        left_out: Entries of the checkpoint that dense prediction does not use: class attention, final norm and head.
        not_built: Entries of the checkpoint that belong to levels and blocks which the backbone does not build, because
            ``out_strides`` and ``out_indices`` do not need them.
        missing: Entries of the model that the checkpoint does not contain: the pyramid, if the checkpoint is of a
            classifier.
        unexpected: Entries of the checkpoint that the model does not have. Strict loading refuses them.
        adapted: How values were adapted to the model, for example the weights of the stem to another number of input
            channels. Empty if no value was adapted.
        others: Entries of neck and heads. A conversion writes them under their own names; a load does not use them.
    """

    matched: list[str]
    left_out: list[str]
    missing: list[str]
    unexpected: list[str]
    adapted: str = ""
    others: list[str] = field(default_factory=list)
    not_built: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.matched)} entries of the backbone"
        if self.adapted:
            text += f" ({self.adapted})"
        if self.others:
            text += f", {len(self.others)} of neck and heads"
        if self.left_out:
            text += f", {len(self.left_out)} of the classifier left out"
        if self.not_built:
            text += f", {len(self.not_built)} of levels and blocks that out_strides does not need left out"
        if self.missing:
            pyramid = "of the pyramid " if all(name.startswith(PYRAMID) for name in self.missing) else ""
            text += f", {len(self.missing)} {pyramid}not in the file"
        if self.unexpected:
            text += f", {len(self.unexpected)} unknown to the model"
        return text

    @property
    def outcome(self) -> str:
        """The report, and its consequence for the model."""
        return f"{self}, which stay as initialised" if self.missing else str(self)


def mark_strictness(state_dict: Mapping[str, Any], strict: bool) -> Mapping[str, Any]:
    """Copies the entries of a backbone, and notes for the backbone's pre-hook whether loading is strict.

    PyTorch does not pass ``strict`` to its hooks. The note is part of the metadata that PyTorch passes to them, where
    PyTorch notes ``assign`` too.

    Args:
        state_dict: The entries.
        strict: Whether the entries must fill the backbone.

    Returns:
        The copy, which shares the values.
    """
    entries = OrderedDict(state_dict)
    metadata = dict(getattr(state_dict, "_metadata", {}))
    metadata[""] = {**metadata.get("", {}), "strict": strict}
    vars(entries)["_metadata"] = metadata
    return entries


def adapt_stems(state: Mapping[str, Any], stems: Iterable[str], in_channels: int) -> tuple[Mapping[str, Any], str]:
    """Adapts the weights of stems in a checkpoint to images with another number of channels.

    Args:
        state: Entries of a checkpoint in any dialect.
        stems: The names of the weights. A name that is missing, or whose value is not a weight of a convolution, is
            passed over, because loading refuses it.
        in_channels: The number of channels of the images, at least 1.

    Returns:
        The entries, and a clause that describes the change. The entries are ``state`` itself and the clause is empty if
        nothing changes.
    """
    inner = unwrap(state)
    adapted = {}
    change = ""
    for name in stems:
        weight = inner.get(name)
        if not isinstance(weight, Tensor) or weight.ndim != 4:
            continue
        weight, changed = adapt_channels(weight, in_channels)
        if changed:
            adapted[name] = weight
            change = changed
    return ({**inner, **adapted}, change) if adapted else (state, "")


def find_prefixes(state: Mapping[str, Any], stem: str, ndim: int) -> list[str]:
    """Finds the prefix of each backbone of a kind in a checkpoint: ``'backbone.'``, for example, or ``''``.

    Args:
        state: Entries of a checkpoint in any dialect.
        stem: The name of a tensor that every backbone of the kind has, and no other backbone.
        ndim: The number of dimensions of the tensor.

    Returns:
        The prefixes.
    """
    prefixes = []
    for name, value in unwrap(state).items():
        is_stem = isinstance(name, str) and f".{name}".endswith(f".{stem}")
        if is_stem and isinstance(value, Tensor) and value.ndim == ndim:
            prefixes.append(name.removesuffix(stem))
    return prefixes


def take_part(state: Mapping[str, Any], prefix: str, is_single: bool, kind: str, wanted: str) -> Mapping[str, Any]:
    """Takes the entries of a backbone from the entries of a larger model.

    Args:
        state: Entries of a checkpoint.
        prefix: The prefix of the backbone's names in the model.
        is_single: Whether ``state`` contains a backbone whose names have no prefix.
        kind: The name of the architecture.
        wanted: The name of the backbone in the model.

    Returns:
        The entries that begin with the prefix, without the prefix. If there are none and ``state`` contains a single
        backbone, ``state`` itself.

    Raises:
        UserError: There are no such entries.
    """
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not found and is_single:
        return state
    if not found and prefix:
        raise UserError(
            f"no {kind} weights: nothing begins with {prefix!r}, where this model has its {wanted}; give weights of "
            "the complete model. The weights of a backbone go into model.backbone.init_cfg = dict(type='Pretrained', "
            "checkpoint=...) of the config, or into load_weights(model.backbone, ...)."
        )
    return found


def take_single(state: Mapping[str, Any], stem: str, ndim: int, kind: str, wanted: str) -> dict[str, Tensor]:
    """Takes the one backbone of a kind out of a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        stem: As for :func:`find_prefixes`.
        ndim: As for :func:`find_prefixes`.
        kind: The name of the architecture.
        wanted: The model that the error message asks for.

    Returns:
        The tensors of the backbone by their names without the prefix.

    Raises:
        UserError: The entries do not contain a backbone of the kind, or contain more than one.
    """
    inner = unwrap(state)
    root = single_root(find_prefixes(state, stem, ndim), inner, stem, kind, wanted)
    return {
        name.removeprefix(root): value
        for name, value in inner.items()
        if isinstance(name, str) and name.startswith(root) and isinstance(value, Tensor)
    }


def single_root(roots: Sequence[str], entries: Mapping[str, Any], stem: str, kind: str, wanted: str) -> str:
    """Returns the prefix of the one backbone of a kind in a checkpoint.

    Args:
        roots: The prefixes of all backbones of the kind.
        entries: The entries of the checkpoint.
        stem: The name of a tensor that every backbone of the kind has.
        kind: The name of the architecture.
        wanted: The model that the error message asks for.

    Raises:
        UserError: There is no backbone of the kind, or there is more than one.
    """
    if not roots:
        some = f" ({', '.join(map(str, list(entries)[:3]))} ...)" if entries else ""
        raise UserError(
            f"no {kind} weights among the {len(entries)} entries{some}: none is called {stem!r}; give a checkpoint of "
            f"{wanted}."
        )
    if len(roots) > 1:
        raise UserError(
            f"the weights of {len(roots)} {kind}s, under {' and '.join(map(repr, roots))}; give a checkpoint of one."
        )
    return roots[0]


def find_not_built(
    names: Iterable[str], blocks: str, built: int, full_depth: int, levels: Collection[str]
) -> list[str]:
    """Lists the entries of a checkpoint whose blocks or levels a backbone does not build.

    Args:
        names: Names of the checkpoint, translated to those of the backbone.
        blocks: The beginning of the names of blocks: ``'blocks.'``.
        built: The number of blocks that the backbone builds.
        full_depth: The number of blocks of the variant.
        levels: The names of the pyramid's modules that the backbone builds.

    Example:
        >>> from xcit_dense.models.loading import find_not_built
        >>> find_not_built(["blocks.7.gamma1", "blocks.8.gamma1", "fpn1.0.bias"], "blocks.", 8, 12, ["fpn3"])
        ['blocks.8.gamma1', 'fpn1.0.bias']
    """
    found = []
    for name in names:
        number = name.removeprefix(blocks).partition(".")[0] if name.startswith(blocks) else ""
        is_late = number.isdecimal() and built <= int(number[:9]) < full_depth
        if is_late or (name.startswith(PYRAMID) and name.partition(".")[0] not in levels):
            found.append(name)
    return found


def find_faults(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], kept: Iterable[str] = (), strict: bool = True
) -> list[str]:
    """Lists why a model cannot load some weights.

    Args:
        weights: The weights by the names of the model.
        own: The state of the model.
        kept: Names of the model that the weights may lack.
        strict: Whether the weights must have exactly the names of the model. The shapes must always agree.

    Returns:
        One clause for each fault.
    """
    faults = [fault for name in weights if name in own and (fault := _fault(name, weights[name], own[name]))]
    if strict:
        may_lack = set(kept)
        faults += [f"{name} is missing" for name in own if name not in weights and name not in may_lack]
        faults += [f"{name} is unknown" for name in weights if name not in own]
    return faults


def refuse_faults(wanted: str, faults: list[str], remedy: str) -> None:
    """Raises an error if there are faults.

    Args:
        wanted: The name of the model.
        faults: As :func:`find_faults` returns them.
        remedy: What to do instead.

    Raises:
        UserError: There is a fault.
    """
    if faults:
        more = f", and {len(faults) - 1} more such faults" if len(faults) > 1 else ""
        raise UserError(f"the checkpoint of {wanted} fits in part: {faults[0]}{more}; {remedy}")


def _fault(name: str, value: Tensor, own: Tensor) -> str | None:
    """Explains why a model cannot load a value. Returns None if it can."""
    if value.shape != own.shape:
        return f"{name} has shape {tuple(value.shape)}, not {tuple(own.shape)}"
    if value.layout != own.layout or value.is_quantized or (value.is_meta and not own.is_meta):
        kind = "no values" if value.is_meta else "quantized values" if value.is_quantized else f"{value.layout} values"
        return f"{name} contains {kind}, which cannot be loaded"
    if own.is_floating_point() and not value.is_floating_point():
        return f"{name} contains {value.dtype}, not floating-point numbers"
    return None


def check_held_values(weights: Mapping[str, Tensor]) -> None:
    """Refuses a tensor that claims more values than its memory contains.

    Without this check, a small damaged file could ask for a huge model.

    Args:
        weights: Tensors by name.

    Raises:
        UserError: There is such a tensor.
    """
    for name, value in weights.items():
        if value.layout == strided and value.nbytes > value.untyped_storage().nbytes():
            raise UserError(
                f"{name} claims the shape {tuple(value.shape)}, but the file contains fewer values; give an "
                "intact checkpoint."
            )


def adapt_channels(weight: Tensor, in_channels: int) -> tuple[Tensor, str]:
    """Adapts the weight of a stem's convolution to images with another number of channels.

    One channel gets the sum of the weights of all channels. For other numbers, the weights are repeated in their order
    and scaled by the ratio of the numbers. So equal channels give the same activations as before if the number is 1 or
    a multiple of the weights' number, and activations of the same size otherwise.

    Source: ``adapt_input_conv`` of timm, whose older releases support weights of three channels only.

    Args:
        weight: (C, given channels, k, k).
        in_channels: The number of channels of the images, at least 1.

    Returns:
        The weight (C, in_channels, k, k), and a clause that describes the change. The weight is the given weight and
        the clause is empty if nothing changes.
    """
    given = weight.shape[1]
    is_plain = weight.is_floating_point() and weight.layout == strided  # loading refuses other weights
    if given in (0, in_channels) or not is_plain:
        return weight, ""
    wide = weight.float()  # sums of half precision are inexact
    if in_channels == 1:
        wide = wide.sum(dim=1, keepdim=True)
        change = f"the stem's weights for {given} input channels summed for 1"
    else:
        wide = wide.repeat(1, math.ceil(in_channels / given), 1, 1)[:, :in_channels] * (given / in_channels)
        change = f"the stem's weights for {given} input channels repeated and scaled for {in_channels}"
    return wide.to(weight.dtype), change
