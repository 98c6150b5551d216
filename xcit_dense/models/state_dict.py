"""Translates published weights from any of their dialects to the names of :class:`xcit_dense.XCiT`.

A dialect is a way to name the entries of a checkpoint. There are these dialects:

- the dense backbone, by itself or inside a detector or segmentor under ``backbone.``;
- the ImageNet and DINO classifiers, wrapped in ``'model'`` or ``'teacher'``, with class-attention layers and a head;
- timm's classifier, with ``pos_embed`` for ``pos_embeder``.

A classifier does not contain the pyramid. The pyramid of the model then keeps its values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.models.loading import (
    COUNTER,
    LEVELS,
    PYRAMID,
    Report,
    adapt_stems,
    check_held_values,
    find_faults,
    find_not_built,
    find_prefixes,
    refuse_faults,
    take_part,
    take_single,
)
from xcit_dense.variants import VARIANTS, variant_name
from xcit_dense.weights.read import unwrap

STEM = "patch_embed.proj.0.0.weight"
"""The name of an entry that every XCiT has. It finds an XCiT among the entries of a checkpoint."""
_CLASS_ATTENTION = ("cls_token", "cls_attn_blocks.")
_CLASSIFIER = (*_CLASS_ATTENTION, "norm.", "head.")


def infer_options(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the arguments that build the :class:`xcit_dense.XCiT` of some weights, from their names and shapes.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Returns:
        The name of the variant, or for other shapes ``embed_dim``, ``depth``, ``patch_size`` and ``num_heads``; and
        ``mlp_ratio``, ``qkv_bias`` and ``in_channels``. Arguments that do not change the weights, such as
        ``out_indices``, are not among them.

    Raises:
        UserError: The entries do not contain an XCiT, or blocks of it are missing.

    Example:
        >>> from xcit_dense import XCiT
        >>> options = infer_options(XCiT("nano_12_p16", qkv_bias=False).state_dict())
        >>> options["variant"], options["qkv_bias"]
        ('nano_12_p16', False)
    """
    own, _ = extract(weights)
    width, depth, patch_size = _shape(own)
    blocks = _blocks(own)
    # The loop stops at the first missing block, so a wrong number of blocks in a damaged name costs no time.
    for number in range(depth):
        if number not in blocks:
            raise UserError(f"only part of an XCiT: block {number} of {depth} is missing; give a complete checkpoint.")
    num_heads, hidden, in_channels = (
        _length(own, name, axis)
        for name, axis in (("blocks.0.attn.temperature", 0), ("blocks.0.mlp.fc1.weight", 0), (STEM, 1))
    )
    if width < 1 or width % num_heads:
        raise UserError(f"a damaged XCiT, with {num_heads} heads for {width} channels; give an intact checkpoint.")
    options: dict[str, Any] = {
        # Rounded up, so that its product with the width is not less than the integer.
        "mlp_ratio": math.nextafter(hidden / width, math.inf),
        "qkv_bias": "blocks.0.attn.qkv.bias" in own,
        "in_channels": in_channels,
    }
    name = variant_name(width, depth, patch_size)
    if name and VARIANTS[name].num_heads == num_heads:
        return {"variant": name, **options}
    return {"embed_dim": width, "depth": depth, "patch_size": patch_size, "num_heads": num_heads, **options}


def adapt_input(state: Mapping[str, Any], in_channels: int) -> tuple[Mapping[str, Any], str]:
    """Adapts the weights of the stem to images with another number of channels.

    :func:`xcit_dense.models.loading.adapt_channels` describes the rule.

    Args:
        state: Entries of a checkpoint in any dialect.
        in_channels: The number of channels of the images, at least 1.

    Returns:
        The entries, and a clause that describes the change. The entries are ``state`` itself and the clause is empty if
        the weights have this number of channels already, or if ``state`` does not contain an XCiT.

    Example:
        >>> import torch
        >>> state, change = adapt_input({"patch_embed.proj.0.0.weight": torch.ones(16, 3, 3, 3)}, in_channels=4)
        >>> change
        "the stem's weights for 3 input channels repeated and scaled for 4"
        >>> tuple(state["patch_embed.proj.0.0.weight"].shape)
        (16, 4, 3, 3)
    """
    return adapt_stems(state, [root + STEM for root in find_roots(state)], in_channels)


def check_held(weights: Mapping[str, Tensor]) -> None:
    """Refuses an XCiT with a tensor that claims more values than its memory contains.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Raises:
        UserError: The entries do not contain an XCiT, or contain such a tensor.
    """
    check_held_values(extract(weights)[0])


def translate(
    state: Mapping[str, Any],
    prefix: str,
    own: Mapping[str, Tensor],
    strict: bool = True,
    full_depth: int | None = None,
    levels: Collection[str] | None = None,
) -> tuple[dict[str, Tensor], Report]:
    """Finds the weights that an XCiT loads from a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        prefix: The prefix of the XCiT's names in the model. If no entry begins with it, the entries may be those of a
            single XCiT.
        own: The state of the XCiT.
        strict: Whether the entries must have exactly the names of ``own``. The shapes must always agree.
        full_depth: The number of blocks of the variant, if ``own`` may have fewer.
        levels: The names of the pyramid's modules in the XCiT, if they are not all. Entries of other levels are left
            out.

    Returns:
        The weights by the names of ``own``, and a report. Entries that a classifier does not contain have the values
        of ``own``.

    Raises:
        UserError: The entries do not contain an XCiT, or contain another variant or an XCiT that fits in part.
    """
    wanted = f"XCiT {name_of(own, full_depth)}"
    found = take_part(state, prefix, STEM in unwrap(state), "XCiT", wanted)
    weights, left_out = extract(found, wanted)
    width, built, patch_size = _shape(own)
    full_depth = full_depth or built
    if _shape(weights) not in ((width, built, patch_size), (width, full_depth, patch_size)):
        raise UserError(
            f"the checkpoint is of XCiT {name_of(weights)}, the model of {wanted}; give a checkpoint of "
            f"{name_of(own, full_depth)}, or build the model as {name_of(weights)}."
        )
    is_classifier = not any(name.startswith(PYRAMID) for name in weights)
    not_built = find_not_built(weights, "blocks.", built, full_depth, levels or LEVELS)
    for name in not_built:
        del weights[name]
    matched = [name for name in weights if name in own]
    unexpected = [name for name in weights if name not in own]
    absent = [name for name in own if name not in weights]
    missing = [name for name in absent if is_classifier and name.startswith(PYRAMID)]
    kept = [*missing, *(name for name in absent if name.endswith(COUNTER))]
    refuse_faults(
        wanted,
        find_faults(weights, own, kept, strict),
        "build the model with the out_strides, num_heads, mlp_ratio, qkv_bias and in_channels of the checkpoint, or "
        "give a complete checkpoint.",
    )
    weights.update({name: own[name] for name in kept})
    return weights, Report(matched, left_out, missing, unexpected, not_built=not_built)


def extract(state: Mapping[str, Any], wanted: str = "XCiT") -> tuple[dict[str, Tensor], list[str]]:
    """Takes the XCiT out of a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        wanted: The model that the error message asks for.

    Returns:
        The weights by the names of :class:`xcit_dense.XCiT`, and the names of the classifier's entries, which are left
        out.

    Raises:
        UserError: The entries do not contain an XCiT, or contain more than one.
    """
    names = take_single(state, STEM, 4, "XCiT", wanted)
    left_out = [name for name in names if name.startswith(_CLASSIFIER)]
    for name in left_out:
        del names[name]
    # pos_embed is timm's name.
    return {name.replace("pos_embed.", "pos_embeder.", 1): value for name, value in names.items()}, left_out


def extract_class_attention(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Takes the class token and the class-attention layers out of a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.

    Returns:
        The weights by timm's names, in which Q, K and V have a layer each. There are none if the checkpoint is not that
        of a classifier.

    Raises:
        UserError: The entries do not contain an XCiT, or contain more than one.
    """
    found: dict[str, Tensor] = {}
    for name, value in take_single(state, STEM, 4, "XCiT", "XCiT").items():
        if not name.startswith(_CLASS_ATTENTION):
            continue
        before, is_joint, kind = name.partition(".attn.qkv.")
        if is_joint:
            found.update({f"{before}.attn.{part}.{kind}": third for part, third in zip("qkv", value.chunk(3))})
        else:
            found[name] = value
    return found


def find_roots(state: Mapping[str, Any]) -> list[str]:
    """Finds the prefix of each XCiT in a checkpoint: ``'backbone.'``, for example, or ``''``.

    Args:
        state: Entries of a checkpoint in any dialect.

    Returns:
        The prefixes.
    """
    return find_prefixes(state, STEM, ndim=4)


def _shape(weights: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Finds width, depth and patch size from the names and shapes of an XCiT's weights."""
    stem = [value for name, value in weights.items() if re.fullmatch(r"patch_embed\.proj\.\d+\.0\.weight", name)]
    return (
        max(value.shape[0] for value in stem if value.ndim == 4),
        max(_blocks(weights), default=-1) + 1,
        2 ** len(stem),
    )


def _blocks(weights: Iterable[str]) -> set[int]:
    """Finds the numbers of the blocks in the names of some weights."""
    return {int(number[1]) for name in weights if (number := re.match(r"blocks\.(\d{1,9})\.", name))}


def _length(weights: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Returns the length of an axis of a tensor, which must be at least 1."""
    if name not in weights:
        raise UserError(f"only part of an XCiT: {name} is missing; give a complete checkpoint.")
    shape = tuple(weights[name].shape)
    if len(shape) <= axis or not shape[axis]:
        raise UserError(f"a damaged XCiT: {name} has shape {shape}; give an intact checkpoint.")
    return shape[axis]


def name_of(weights: Mapping[str, Tensor], full_depth: int | None = None) -> str:
    """Names the variant of an XCiT's weights, or its hyper-parameters.

    Args:
        weights: Weights by the names of :class:`xcit_dense.XCiT`.
        full_depth: The number of blocks of the variant, if the weights may be those of fewer blocks.
    """
    width, depth, patch_size = _shape(weights)
    depth = full_depth or depth
    name = variant_name(width, depth, patch_size)
    if name:
        return name
    alike = {
        abs(variant.depth - depth): other
        for other, variant in VARIANTS.items()
        if (variant.embed_dim, variant.patch_size) == (width, patch_size)
    }
    nearest = f" (nearest: {alike[min(alike)]})" if alike else ""
    return f"embed_dim={width}, depth={depth}, patch_size={patch_size}{nearest}"
