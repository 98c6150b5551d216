"""Published weights in any of their dialects, translated to the names of :class:`xcit_dense.XCiT`.

The dialects: the dense backbone (inside a detector or segmentor, under ``backbone.``, or alone), the ImageNet and DINO
classifiers (wrapped in ``'model'`` or ``'teacher'``, with class-attention layers and a head), and timm's classifier
(``pos_embed`` for ``pos_embeder``). A classifier has no pyramid: its levels keep the values they have.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, strided

from xcit_dense.errors import UserError
from xcit_dense.variants import VARIANTS, variant_name
from xcit_dense.weights.read import unwrap

if TYPE_CHECKING:
    from xcit_dense.models.xcit import XCiT

STEM = "patch_embed.proj.0.0.weight"
"""The name by which an XCiT is recognised among the entries of a checkpoint."""
_CLASSIFIER = ("cls_token", "cls_attn_blocks.", "norm.", "head.")
_PYRAMID = ("fpn1.", "fpn2.", "fpn3.", "fpn4.")
COUNTER = "num_batches_tracked"
"""The end of the names of batch norm's counters. The oldest checkpoints do not have them, and they have no effect."""


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint's entries, by name.

    Attributes:
        matched: Loaded.
        left_out: In the checkpoint, without use in dense prediction: class attention, final norm and head.
        missing: Not in the checkpoint: the pyramid, where that is a classifier's.
        unexpected: In the checkpoint, but unknown to the model: none, unless loading is not strict.
    """

    matched: list[str]
    left_out: list[str]
    missing: list[str]
    unexpected: list[str]

    def __str__(self) -> str:
        text = f"{len(self.matched)} entries of the backbone"
        if self.left_out:
            text += f", {len(self.left_out)} of the classifier left out"
        if self.missing:
            pyramid = "of the pyramid " if all(name.startswith(_PYRAMID) for name in self.missing) else ""
            text += f", {len(self.missing)} {pyramid}not in the file"
        if self.unexpected:
            text += f", {len(self.unexpected)} unknown to the model"
        return text

    @property
    def outcome(self) -> str:
        """The report, and what it means for a model that has loaded the checkpoint."""
        return f"{self}, which stay as initialised" if self.missing else str(self)


def infer_options(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Finds the arguments that build the :class:`xcit_dense.XCiT` of some weights, from their names and shapes.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Returns:
        The variant's name, or for other shapes its numbers, with ``mlp_ratio``, ``qkv_bias`` and ``in_channels``. Not
        among them is what leaves no trace in weights, such as ``out_indices``.

    Raises:
        UserError: The entries hold no XCiT, or not even its first block.
    """
    own, _ = extract(weights)
    width, depth, patch_size = _shape(own)
    blocks = _blocks(own)
    for number in range(depth):  # up to the first that is not there, however many are claimed
        if number not in blocks:
            raise UserError(f"only part of an XCiT: block {number} of {depth} is missing; give a whole one.")
    num_heads, hidden, in_channels = (
        _length(own, name, axis)
        for name, axis in (("blocks.0.attn.temperature", 0), ("blocks.0.mlp.fc1.weight", 0), (STEM, 1))
    )
    if width < 1 or width % num_heads:
        raise UserError(f"a damaged XCiT, with {num_heads} heads for {width} channels; give a whole one.")
    options: dict[str, Any] = {
        # Upwards, so that the product with the width does not fall short of the integer.
        "mlp_ratio": math.nextafter(hidden / width, math.inf),
        "qkv_bias": "blocks.0.attn.qkv.bias" in own,
        "in_channels": in_channels,
    }
    name = variant_name(width, depth, patch_size)
    if name and VARIANTS[name].num_heads == num_heads:
        return {"variant": name, **options}
    return {"embed_dim": width, "depth": depth, "patch_size": patch_size, "num_heads": num_heads, **options}


def check_held(weights: Mapping[str, Tensor]) -> None:
    """Refuses an XCiT whose tensors claim more values than their memory holds, before one as large is built.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Raises:
        UserError: There is no XCiT, or such a one.
    """
    for name, value in extract(weights)[0].items():
        if value.layout == strided and value.nbytes > value.untyped_storage().nbytes():
            raise UserError(
                f"{name} claims the shape {tuple(value.shape)}, but the file holds fewer values; give a whole one."
            )


def adapt_state_dict(
    backbone: XCiT, state_dict: MutableMapping[str, Any], prefix: str, metadata: Any, strict: bool, *_: Any
) -> None:
    """Pre-hook of ``load_state_dict``: turns any published dialect into the backbone's names, in place.

    Args:
        backbone: The :class:`xcit_dense.XCiT` that loads.
        state_dict: Entries to load.
        prefix: Where the backbone sits in the model that loads.
        metadata: The metadata of the backbone's entries. :func:`mark_strictness` adds the key ``'strict'``.
        strict: Not used: PyTorch and MMEngine pass True whatever the caller asks for.

    Raises:
        UserError: The entries hold no XCiT, another variant, or one that fits in part. Nothing has been loaded into
            the backbone.
    """
    if backbone.deployed:
        raise UserError("A deployed XCiT does not load weights; load them before deploy(model).")
    strict = metadata.get("strict", True)
    if not strict and not any(name.startswith(prefix) and name.endswith(STEM) for name in unwrap(state_dict)):
        return
    weights, report = translate(state_dict, prefix, backbone.state_dict(), strict)
    for name in [name for name in state_dict if name.startswith(prefix)]:
        del state_dict[name]
    state_dict.update({prefix + name: value for name, value in weights.items()})
    backbone.load_report = report
    if report.missing or report.left_out or report.unexpected:
        backbone.log(logging.WARNING if report.missing else logging.INFO, f"XCiT: {report.outcome}.")


def mark_strictness(state_dict: Mapping[str, Any], strict: bool) -> Mapping[str, Any]:
    """Copies the entries of a backbone, and notes for :func:`adapt_state_dict` whether loading is strict.

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


def translate(
    state: Mapping[str, Any], prefix: str, own: Mapping[str, Tensor], strict: bool = True
) -> tuple[dict[str, Tensor], Report]:
    """Finds what an XCiT would load.

    Args:
        state: Entries of a checkpoint in any dialect.
        prefix: Where the XCiT sits in the model that the entries are for. Where nothing begins with it, those of an
            XCiT alone are taken.
        own: The XCiT's own state.
        strict: Whether each name of ``own`` must be among the entries, and no other. Shapes must agree in any case.

    Returns:
        Weights by the names of ``own``, with the XCiT's own values where a classifier has none, and a report.

    Raises:
        UserError: The entries hold no XCiT, another variant, or one that fits in part.
    """
    wanted = f"XCiT {_name(own)}"
    found: Mapping[str, Any] = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    if not found and STEM in unwrap(state):  # a backbone's alone
        found = state
    if not found and prefix:
        raise UserError(
            f"no XCiT weights: nothing begins with {prefix!r}, where this model has its {wanted}; give weights of the "
            "whole model. Those of a backbone alone go into model.backbone.init_cfg = dict(type='Pretrained', "
            "checkpoint=...) of the config, or into load_weights(model.backbone, ...)."
        )
    weights, left_out = extract(found, wanted)
    if _shape(weights) != _shape(own):
        raise UserError(
            f"the checkpoint is of XCiT {_name(weights)}, the model of {wanted}; give a checkpoint of {_name(own)}, or "
            f"build the model as {_name(weights)}."
        )
    matched = [name for name in weights if name in own]
    unexpected = [name for name in weights if name not in own]
    absent = [name for name in own if name not in weights]
    is_classifier = not any(name.startswith(_PYRAMID) for name in weights)
    missing = [name for name in absent if is_classifier and name.startswith(_PYRAMID)]
    kept = [*missing, *(name for name in absent if name.endswith(COUNTER))]
    faults = [fault for name in matched if (fault := _fault(name, weights[name], own[name]))]
    if strict:
        faults += [f"{name} is missing" for name in absent if name not in kept]
        faults += [f"{name} is unknown" for name in unexpected]
    if faults:
        more = f", and {len(faults) - 1} more such faults" if len(faults) > 1 else ""
        raise UserError(
            f"the checkpoint of {wanted} fits in part: {faults[0]}{more}; build the model with the num_heads, "
            "mlp_ratio, qkv_bias and in_channels of the checkpoint, or give a whole one."
        )
    weights.update({name: own[name] for name in kept})
    return weights, Report(matched, left_out, missing, unexpected)


def extract(state: Mapping[str, Any], wanted: str = "XCiT") -> tuple[dict[str, Tensor], list[str]]:
    """Takes the one XCiT out of a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        wanted: What to ask for where there is none.

    Returns:
        Its weights by the names of :class:`xcit_dense.XCiT`, and the names of the classifier's that were left out.

    Raises:
        UserError: There is no XCiT, or more than one.
    """
    inner = unwrap(state)
    names = {name: value for name, value in inner.items() if isinstance(name, str) and isinstance(value, Tensor)}
    roots = find_roots(names)
    if not roots:
        some = f" ({', '.join(map(str, list(inner)[:3]))} ...)" if inner else ""
        raise UserError(
            f"no XCiT weights among the {len(inner)} entries{some}: none is called {STEM!r}; give a checkpoint of "
            f"{wanted}."
        )
    if len(roots) > 1:
        raise UserError(
            f"the weights of {len(roots)} XCiTs, under {' and '.join(map(repr, roots))}; give a checkpoint of one."
        )
    root = roots[0]
    names = {name.removeprefix(root): value for name, value in names.items() if name.startswith(root)}
    left_out = [name for name in names if name.startswith(_CLASSIFIER)]
    for name in left_out:
        del names[name]
    # timm's name first.
    return {name.replace("pos_embed.", "pos_embeder.", 1): value for name, value in names.items()}, left_out


def find_roots(weights: Mapping[str, Tensor]) -> list[str]:
    """What the names of each XCiT among some weights begin with: ``'backbone.'``, or nothing.

    Args:
        weights: Tensors by name.
    """
    stems = [name for name, value in weights.items() if f".{name}".endswith(f".{STEM}") and value.ndim == 4]
    return [name.removesuffix(STEM) for name in stems]


def _shape(weights: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Width, depth and patch size that the names and shapes of an XCiT's weights tell."""
    stem = [value for name, value in weights.items() if re.fullmatch(r"patch_embed\.proj\.\d+\.0\.weight", name)]
    return (
        max(value.shape[0] for value in stem if value.ndim == 4),
        max(_blocks(weights), default=-1) + 1,
        2 ** len(stem),
    )


def _blocks(weights: Iterable[str]) -> set[int]:
    """Numbers of the blocks among the names of some weights."""
    return {int(number[1]) for name in weights if (number := re.match(r"blocks\.(\d{1,9})\.", name))}


def _length(weights: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Length of an axis of one of some weights, at least 1."""
    if name not in weights:
        raise UserError(f"only part of an XCiT: {name} is missing; give a whole one.")
    shape = tuple(weights[name].shape)
    if len(shape) <= axis or not shape[axis]:
        raise UserError(f"a damaged XCiT: {name} has shape {shape}; give a whole one.")
    return shape[axis]


def _fault(name: str, value: Tensor, own: Tensor) -> str | None:
    """Why a value cannot take the place of a model's own; None if it can."""
    if value.shape != own.shape:
        return f"{name} has shape {tuple(value.shape)}, not {tuple(own.shape)}"
    if value.layout != own.layout or value.is_quantized or (value.is_meta and not own.is_meta):
        kind = "no values" if value.is_meta else "quantized values" if value.is_quantized else f"{value.layout} values"
        return f"{name} holds {kind}, which cannot be loaded"
    if own.is_floating_point() and not value.is_floating_point():
        return f"{name} holds {value.dtype}, not floating-point numbers"
    return None


def _name(weights: Mapping[str, Tensor]) -> str:
    width, depth, patch_size = _shape(weights)
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
