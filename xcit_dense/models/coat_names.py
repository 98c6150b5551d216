"""Translates published weights from any of their dialects to the names of :class:`xcit_dense.CoaT`.

There are these dialects:

- the dense backbone, by itself or inside a detector under ``backbone.``;
- the ImageNet classifier of the authors, wrapped in ``'model'``, and the one of timm.

In the original code, blocks share modules, and each shared tensor has a name in each block: an alias. This package has
one name for each tensor. The aliases of a tensor must have equal values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, strided

from xcit_dense.errors import UserError
from xcit_dense.models.loading import (
    Report,
    adapt_stems,
    find_faults,
    find_prefixes,
    refuse_faults,
    take_part,
    take_single,
)
from xcit_dense.variants import CoaTVariant, coat_variant_name
from xcit_dense.weights.read import unwrap

STEM = "cls_token1"
"""The name of an entry that every CoaT has. It finds a CoaT among the entries of a checkpoint."""
LEVELS = (1, 2, 3, 4)
"""Numbers of the levels in the names of the weights."""
_FIRST_WEIGHT = "patch_embed1.proj.weight"
_CLASSIFIER = ("norm1.", "norm2.", "norm3.", "norm4.", "aggregate.", "head.")
_ALIASES = (
    (r"serial_blocks([1-4])\.\d+\.cpe\.", r"cpe\1."),
    (r"serial_blocks([1-4])\.\d+\.factoratt_crpe\.crpe\.", r"crpe\1."),
    (r"parallel_blocks\.\d+\.factoratt_crpe([2-4])\.crpe\.", r"crpe\1."),
    (r"parallel_blocks\.(\d+)\.mlp[34]\.", r"parallel_blocks.\1.mlp2."),
)


def own_name(name: str) -> str:
    """Returns the name of a tensor in :class:`xcit_dense.CoaT`.

    Args:
        name: A name of the tensor in the original code.

    Example:
        >>> from xcit_dense.models.coat_names import own_name
        >>> own_name("serial_blocks2.1.cpe.proj.weight")
        'cpe2.proj.weight'
        >>> own_name("parallel_blocks.0.mlp4.fc1.bias")
        'parallel_blocks.0.mlp2.fc1.bias'
    """
    for alias, own in _ALIASES:
        name, found = re.subn(rf"^{alias}", own, name)
        if found:
            break
    return name


def find_roots(state: Mapping[str, Any]) -> list[str]:
    """Finds the prefix of each CoaT in a checkpoint: ``'backbone.'``, for example, or ``''``.

    Args:
        state: Entries of a checkpoint in any dialect.
    """
    return find_prefixes(state, STEM, ndim=3)


def extract(state: Mapping[str, Any], wanted: str = "CoaT") -> tuple[dict[str, Tensor], list[str]]:
    """Takes the CoaT out of a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        wanted: The model that the error message asks for.

    Returns:
        The weights by the names of :class:`xcit_dense.CoaT`, and the names of the classifier's entries, which are left
        out.

    Raises:
        UserError: The entries do not contain a CoaT, contain more than one, or have aliases with different values.
    """
    names = take_single(state, STEM, 3, "CoaT", wanted)
    left_out = [name for name in names if name.startswith(_CLASSIFIER)]
    weights: dict[str, Tensor] = {}
    first_names: dict[str, str] = {}
    for name, value in names.items():
        if name.startswith(_CLASSIFIER):
            continue
        own = own_name(name)
        first = first_names.setdefault(own, name)
        if not _is_equal(weights.setdefault(own, value), value):
            raise UserError(
                f"{first} and {name} are names of one tensor of CoaT, but their values differ; give a checkpoint of a "
                "CoaT whose blocks share the modules, as in the original code."
            )
    return weights, left_out


def infer_options(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the arguments that build the :class:`xcit_dense.CoaT` of some weights, from their names and shapes.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Returns:
        The name of the variant, or for other shapes ``embed_dims``, ``serial_depths``, ``parallel_depth`` and
        ``mlp_ratios``; and ``qkv_bias`` and ``in_channels``.

    Raises:
        UserError: The entries do not contain a CoaT, or parts of it are missing.

    Example:
        >>> from xcit_dense import CoaT
        >>> from xcit_dense.models.coat_names import infer_options
        >>> infer_options(CoaT("coat_lite_tiny", in_channels=4).state_dict())
        {'variant': 'coat_lite_tiny', 'qkv_bias': True, 'in_channels': 4}
    """
    own, _ = extract(weights)
    shape = _shape(own)
    options: dict[str, Any] = {
        "qkv_bias": "serial_blocks1.0.factoratt_crpe.qkv.bias" in own,
        "in_channels": _length(own, _FIRST_WEIGHT, 1),
    }
    name = coat_variant_name(shape)
    if name:
        return {"variant": name, **options}
    return {**vars(shape), **options}


def adapt_input(state: Mapping[str, Any], in_channels: int) -> tuple[Mapping[str, Any], str]:
    """Adapts the weights of the first patch embedding to images with another number of channels.

    :func:`xcit_dense.models.loading.adapt_channels` describes the rule.

    Args:
        state: Entries of a checkpoint in any dialect.
        in_channels: The number of channels of the images, at least 1.

    Returns:
        The entries, and a clause that describes the change. The entries are ``state`` itself and the clause is empty if
        the weights have this number of channels already, or if ``state`` does not contain a CoaT.
    """
    return adapt_stems(state, [root + _FIRST_WEIGHT for root in find_roots(state)], in_channels)


def translate(
    state: Mapping[str, Any],
    prefix: str,
    own: Mapping[str, Tensor],
    strict: bool = True,
    shape: CoaTVariant | None = None,
) -> tuple[dict[str, Tensor], Report]:
    """Finds the weights that a CoaT loads from a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        prefix: The prefix of the CoaT's names in the model. If no entry begins with it, the entries may be those of a
            single CoaT.
        own: The state of the CoaT.
        strict: Whether the entries must have exactly the names of ``own``. The shapes must always agree.
        shape: The hyper-parameters of the CoaT, if ``own`` may lack entries on which no level depends.

    Returns:
        The weights by the names of ``own``, and a report.

    Raises:
        UserError: The entries do not contain a CoaT, or contain another variant or a CoaT that fits in part, or have
            aliases with different values.
    """
    shape = shape or _shape(own)
    wanted = f"CoaT {name_of(shape)}"
    weights, left_out = extract(take_part(state, prefix, STEM in unwrap(state), "CoaT", wanted), wanted)
    own_is_complete = _find_levels(own) == set(LEVELS)
    if own_is_complete or weights.keys() != own.keys():  # otherwise the file has the same levels, and not all of them
        found = _shape(weights)
        if _sizes(found) != _sizes(shape):
            raise UserError(
                f"the checkpoint is of CoaT {name_of(found)}, the model is {wanted}; give a checkpoint of "
                f"{name_of(shape)}, or build the model as {name_of(found)}."
            )
    not_built = _find_not_built(weights, own, shape.parallel_depth)
    for name in not_built:
        del weights[name]
    refuse_faults(
        wanted,
        find_faults(weights, own, strict=strict),
        "build the model with the out_strides, qkv_bias and in_channels of the checkpoint, or give a complete "
        "checkpoint.",
    )
    matched = [name for name in weights if name in own]
    unexpected = [name for name in weights if name not in own]
    return weights, Report(matched, left_out, [], unexpected, not_built=not_built)


def _find_levels(names: Iterable[str]) -> set[int]:
    """Finds the numbers of the levels that have serial blocks."""
    return {int(found[1]) for name in names if (found := re.match(r"serial_blocks([1-4])\.", name))}


def _find_not_built(names: Iterable[str], own: Iterable[str], parallel_depth: int) -> list[str]:
    """Lists the entries of levels and blocks that a CoaT does not build."""
    groups = re.compile(rf"parallel_blocks\.{parallel_depth - 1}\.norm2[2-4]\.|[a-z_]+[1-4]?(?=\.|$)")
    built = {found[0] for name in own if (found := groups.match(name))}
    known = re.compile(r"(cls_token|patch_embed|cpe|crpe|serial_blocks)[1-4]|parallel_blocks")
    not_built = []
    for name in names:
        group = groups.match(name)
        if group and group[0] not in built and known.match(name):
            not_built.append(name)
    return not_built


def _sizes(shape: CoaTVariant) -> tuple[Any, ...]:
    """Returns the integers that the hyper-parameters give. Different ratios may give the same hidden channels."""
    hidden = [int(width * ratio) for width, ratio in zip(shape.embed_dims, shape.mlp_ratios)]
    return tuple(shape.embed_dims), tuple(shape.serial_depths), shape.parallel_depth, hidden


def name_of(shape: CoaTVariant) -> str:
    """Names the variant with some hyper-parameters, or lists the hyper-parameters."""
    return coat_variant_name(shape) or ", ".join(f"{key}={value}" for key, value in vars(shape).items())


def _shape(weights: Mapping[str, Tensor]) -> CoaTVariant:
    """Finds the hyper-parameters from the names and shapes of a CoaT's weights."""
    widths = tuple(_length(weights, f"patch_embed{level}.proj.weight", 0) for level in LEVELS)
    hidden = [_length(weights, f"serial_blocks{level}.0.mlp.fc1.weight", 0) for level in LEVELS]
    return CoaTVariant(
        widths,
        tuple(_count_blocks(weights, f"serial_blocks{level}") for level in LEVELS),
        _count_blocks(weights, "parallel_blocks"),
        tuple(_ratio(own, width) for own, width in zip(hidden, widths)),
    )


def _ratio(hidden: int, width: int) -> float:
    """Returns a ratio whose product with ``width`` rounds down to ``hidden``."""
    return hidden / width if hidden % width == 0 else math.nextafter(hidden / width, math.inf)


def _count_blocks(names: Iterable[str], group: str) -> int:
    """Counts the blocks of a group, such as ``serial_blocks1``, whose numbers must begin at 0 and have no gap."""
    pattern = re.compile(rf"{group}\.(\d{{1,9}})\.")
    numbers = {int(found[1]) for name in names if (found := pattern.match(name))}
    for number in range(max(numbers, default=-1) + 1):
        if number not in numbers:
            raise UserError(f"only part of a CoaT: {group}.{number} is missing; give a complete checkpoint.")
    return len(numbers)


def _length(weights: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Returns the length of an axis of a tensor, which must be at least 1."""
    if name not in weights:
        raise UserError(f"only part of a CoaT: {name} is missing; give a complete checkpoint.")
    shape = tuple(weights[name].shape)
    if len(shape) <= axis or not shape[axis]:
        raise UserError(f"a damaged CoaT: {name} has shape {shape}; give an intact checkpoint.")
    return shape[axis]


def _is_equal(first: Tensor, second: Tensor) -> bool:
    """Returns whether two tensors are equal. Loading refuses tensors without plain values; they count as equal."""
    if first is second:
        return True
    if any(value.is_meta or value.layout != strided or value.is_quantized for value in (first, second)):
        return first.shape == second.shape
    return first.dtype == second.dtype and torch.equal(first, second)
