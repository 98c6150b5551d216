"""Translates the weights of plain transformers from any of their dialects to the names of TokenPyramid.

There are these dialects:

- :class:`xcit_dense.TokenPyramid` itself, by itself or inside a detector or segmentor under ``backbone.``;
- classifiers and self-supervised models of timm and of the authors;
- the authors' BEiT segmentors, whose pyramid has the same names as here;
- MMSegmentation's BEiT, whose pyramid is a part of the neck.

A classifier does not contain the pyramid. The pyramid of the model then keeps its values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import timm
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.models.adapters import TABLE, Adapter
from xcit_dense.models.loading import (
    COUNTER,
    PYRAMID,
    Report,
    adapt_stems,
    check_held_values,
    find_faults,
    find_not_built,
    refuse_faults,
    single_root,
    take_part,
)
from xcit_dense.weights.read import unwrap

if TYPE_CHECKING:
    from xcit_dense.models.token_pyramid import TokenPyramid

_STEM = re.compile(r"(?P<root>|.*?\.)(?:trunk\.)?patch_embed\.(?:proj|projection)\.weight")

# The beginnings of names that dense prediction does not use: heads, final norms, and parts for pre-training.
_LEFT_OUT = (
    "head.",
    "head_dist.",
    "fc_norm.",
    "norm.",
    "ln1.",
    "attn_pool.",
    "neck.",
    "mask_token",
    "lm_head.",
    "cls_pt_layers.",
    "blocks_token_only.",
    "rope",
)

# MMSegmentation's names of a BEiT and its pyramid, and the names here.
_MMSEG = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"layers\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"layers\.(\d+)\.", r"blocks.\1."),
)
_MMSEG_NECK = ((r"neck\.upsample_4x\.", "fpn1."), (r"neck\.upsample_2x\.", "fpn2.0."))


def find_roots(state: Mapping[str, Any]) -> list[str]:
    """Finds the prefix of each plain transformer in a checkpoint: ``'backbone.'``, for example, or ``''``.

    Args:
        state: Entries of a checkpoint in any dialect.
    """
    roots = []
    for name, value in unwrap(state).items():
        found = _STEM.fullmatch(name) if isinstance(name, str) else None
        if found and isinstance(value, Tensor) and value.ndim == 4:
            roots.append(found["root"])
    return roots


def extract(
    state: Mapping[str, Any], wanted: str = "a plain transformer"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Takes a transformer out of a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        wanted: The model that the error message asks for.

    Returns:
        The entries of the transformer by the names of timm, and those of the pyramid.

    Raises:
        UserError: The entries do not contain a plain transformer, or contain more than one.
    """
    inner = unwrap(state)
    entries = {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor)}
    root = single_root(find_roots(state), inner, "patch_embed.proj.weight", "plain transformer", wanted)
    trunk: dict[str, Tensor] = {}
    pyramid: dict[str, Tensor] = {}
    for name, value in entries.items():
        own = name.removeprefix(root)
        if name.startswith(root) and own.startswith(PYRAMID):
            pyramid[own] = value
        elif name.startswith(root):
            trunk[own.removeprefix("trunk.")] = value
    if f"{root}patch_embed.projection.weight" in entries:
        trunk = {_rename(name, _MMSEG): value for name, value in trunk.items()}
        for name, value in entries.items():
            own = _rename(name, _MMSEG_NECK)
            if own != name:
                pyramid[own] = value
    elif any(".mlp.lin1." in name for name in trunk):  # the authors' SAM; timm converts names that begin so
        trunk = {f"image_encoder.{name}": value for name, value in trunk.items()}
    return trunk, pyramid


def translate(
    backbone: TokenPyramid, adapter: Adapter, state: Mapping[str, Any], prefix: str, strict: bool
) -> tuple[dict[str, Tensor], Report]:
    """Finds the weights of a TokenPyramid in a checkpoint.

    Args:
        backbone: The backbone.
        adapter: The adapter of its trunk.
        state: Entries of a checkpoint in any dialect.
        prefix: The prefix of the backbone's names in the model. If no entry begins with it, the entries may be those of
            a single backbone.
        strict: Whether the entries must fill the backbone. Shapes must always agree.

    Returns:
        The weights by the names of the backbone, and a report. Entries that a classifier does not contain have the
        values of the backbone.

    Raises:
        UserError: The entries do not contain a plain transformer, or contain another one or one that fits in part.
    """
    own = backbone.state_dict()
    wanted = backbone.name
    found = take_part(state, prefix, "" in find_roots(state), "TokenPyramid", wanted)
    trunk, pyramid = extract(found, wanted)
    _check_shape(backbone, trunk)
    names = list(trunk)
    try:
        fitted, changes = adapter.fit(backbone.trunk, trunk)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"a damaged transformer ({error}); give an intact checkpoint of {wanted}.") from error
    weights = {f"trunk.{name}": value for name, value in fitted.items()} | pyramid
    built = len(backbone.trunk.blocks)
    not_built = find_not_built(weights, "trunk.blocks.", built, backbone.full_depth, backbone.level_names)
    left_out = [name for name in weights if name not in own and _is_left_out(backbone, name)]
    # Converted weights may lack entries of the file that the conversion does not use.
    left_out += [f"trunk.{name}" for name in names if name.startswith(_LEFT_OUT) and name not in fitted]
    for name in (*left_out, *not_built):
        weights.pop(name, None)
    matched = [name for name in weights if name in own]
    unexpected = [name for name in weights if name not in own]
    buffers = {name for name, _ in backbone.named_buffers() if name.startswith("trunk.")}
    absent = [name for name in own if name not in weights]
    missing = [name for name in absent if not pyramid and name.startswith(PYRAMID)]
    kept = [*missing, *(name for name in absent if name.endswith(COUNTER) or name in buffers)]
    refuse_faults(
        wanted,
        find_faults(weights, own, kept, strict),
        "build the model with the variant, out_strides, img_size and in_channels of the checkpoint, or give a "
        f"checkpoint of {wanted}.",
    )
    weights.update({name: own[name] for name in kept})
    return weights, Report(matched, left_out, missing, unexpected, ", ".join(changes), not_built=not_built)


def adapt_input(state: Mapping[str, Any], in_channels: int) -> tuple[Mapping[str, Any], str]:
    """Adapts the weights of the patch embedding to images with another number of channels.

    Args:
        state: Entries of a checkpoint in any dialect.
        in_channels: The number of channels of the images, at least 1.

    Returns:
        The entries, and a clause that describes the change. The clause is empty if nothing changes.
    """
    stems = [name for name in unwrap(state) if isinstance(name, str) and _STEM.fullmatch(name)]
    return adapt_stems(state, stems, in_channels)


def infer_options(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the arguments that build the TokenPyramid of some weights of BEiT or CaiT.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Returns:
        ``variant``, and ``img_size`` of BEiT. For other models nothing, because different models have the same shapes.

    Raises:
        UserError: The entries do not contain a plain transformer, or contain a tensor without its values.
    """
    trunk, pyramid = extract(weights)
    check_held_values({**trunk, **pyramid})
    stem = trunk.get("patch_embed.proj.weight")
    depth = _depth(trunk)
    if stem is None or not depth:
        return {}
    width = stem.shape[0]
    table = trunk.get(f"blocks.0.attn.{TABLE}", trunk.get(f"rel_pos_bias.{TABLE}"))
    if table is not None:
        names = {(768, 12): "beit_base_patch16_224", (1024, 24): "beit_large_patch16_224"}
        tokens = (math.isqrt(max(table.shape[0] - 3, 0)) + 1) // 2
        variant = names.get((width, depth))
        return {"variant": variant, "img_size": 16 * tokens} if variant else {}
    if "blocks.0.attn.proj_l.weight" in trunk and "pos_embed" in trunk:
        side = 16 * math.isqrt(trunk["pos_embed"].shape[1])
        shapes = {192: "xxs", 288: "xs", 384: "s", 768: "m"}
        variant = f"cait_{shapes.get(width)}{depth}_{side}"
        return {"variant": variant} if timm.is_model(variant) else {}
    return {}


def _check_shape(backbone: TokenPyramid, weights: Mapping[str, Tensor]) -> None:
    stem = next((value for name, value in weights.items() if name.endswith("patch_embed.proj.weight")), None)
    width, depth = (0 if stem is None else stem.shape[0]), _depth(weights)
    if (width, depth) not in (
        (backbone.embed_dim, backbone.full_depth),
        (backbone.embed_dim, len(backbone.trunk.blocks)),
    ):
        raise UserError(
            f"the checkpoint is of a transformer with {depth} blocks of {width} channels, but {backbone.name} has "
            f"{backbone.full_depth} of {backbone.embed_dim}; give a checkpoint of {backbone.variant}, or build the "
            "model of the checkpoint."
        )


def _is_left_out(backbone: TokenPyramid, name: str) -> bool:
    inner = name.removeprefix("trunk.")
    return inner.startswith(_LEFT_OUT) or (inner == "cls_token" and backbone.trunk.cls_token is None)


def _depth(weights: Mapping[str, Tensor]) -> int:
    numbers = [int(found[1]) for name in weights if (found := re.search(r"(?:^|\.)blocks\.(\d{1,9})\.", name))]
    return max(numbers, default=-1) + 1


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, own in rules:
        renamed = re.sub(f"^{pattern}", own, name)
        if renamed != name:
            return renamed
    return name
