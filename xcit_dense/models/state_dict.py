"""Translates published weights from any of their dialects to the names of :class:`xcit_dense.XCiT`.

A dialect is a way to name the entries of a checkpoint. There are these dialects:

- the dense backbone, by itself or inside a detector or segmentor under ``backbone.``;
- the ImageNet and DINO classifiers, wrapped in ``'model'`` or ``'teacher'``, with class-attention layers and a head;
- timm's classifier, with ``pos_embed`` for ``pos_embeder``.

A classifier does not contain the pyramid. The pyramid of the model then keeps its values.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, strided

from xcit_dense.errors import UserError
from xcit_dense.variants import VARIANTS, variant_name
from xcit_dense.weights.read import unwrap

if TYPE_CHECKING:
    from xcit_dense.models.xcit import XCiT

STEM = "patch_embed.proj.0.0.weight"
"""The name of an entry that every XCiT has. It finds an XCiT among the entries of a checkpoint."""
_CLASSIFIER = ("cls_token", "cls_attn_blocks.", "norm.", "head.")
_PYRAMID = ("fpn1.", "fpn2.", "fpn3.", "fpn4.")
COUNTER = "num_batches_tracked"
"""The end of the names of batch norm's counters. The oldest checkpoints do not have them, and they have no effect."""


@dataclass(frozen=True)
class Report:
    """The result of a load, as names of entries.

    Attributes:
        matched: Entries that were loaded.
        left_out: Entries of the checkpoint that dense prediction does not use: class attention, final norm and head.
        missing: Entries of the model that the checkpoint does not contain: the pyramid, if the checkpoint is of a
            classifier.
        unexpected: Entries of the checkpoint that the model does not have. Strict loading refuses them.
        adapted: How the weights of the stem were adapted to another number of input channels
            (:func:`adapt_input`). Empty if they were not adapted.
        others: Entries of neck and heads. A conversion writes them under their own names; a load does not use them.
    """

    matched: list[str]
    left_out: list[str]
    missing: list[str]
    unexpected: list[str]
    adapted: str = ""
    others: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{len(self.matched)} entries of the backbone"
        if self.adapted:
            text += f" ({self.adapted})"
        if self.others:
            text += f", {len(self.others)} of neck and heads"
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
        """The report, and its consequence for the model."""
        return f"{self}, which stay as initialised" if self.missing else str(self)


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

    One channel gets the sum of the weights of all channels. For more channels, the weights are repeated in their order
    and scaled, so that equal channels give the same activations as before.

    Source: ``adapt_input_conv`` of timm, whose older releases support weights of three channels only.

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
    inner = unwrap(state)
    adapted = {}
    change = ""
    for root in find_roots({name: value for name, value in inner.items() if isinstance(value, Tensor)}):
        weight = inner[root + STEM]
        given = weight.shape[1]
        is_plain = weight.is_floating_point() and weight.layout == strided  # loading refuses other weights
        if given in (0, in_channels) or not is_plain:
            continue
        wide = weight.float()  # sums of half precision are inexact
        if in_channels == 1:
            wide = wide.sum(dim=1, keepdim=True)
            change = f"the stem's weights for {given} input channels summed for 1"
        else:
            wide = wide.repeat(1, math.ceil(in_channels / given), 1, 1)[:, :in_channels] * (given / in_channels)
            change = f"the stem's weights for {given} input channels repeated and scaled for {in_channels}"
        adapted[root + STEM] = wide.to(weight.dtype)
    return ({**inner, **adapted}, change) if adapted else (state, "")


def check_held(weights: Mapping[str, Tensor]) -> None:
    """Refuses an XCiT with a tensor that claims more values than its memory contains.

    Without this check, a small damaged file could ask for a huge model.

    Args:
        weights: Entries of a checkpoint in any dialect.

    Raises:
        UserError: The entries do not contain an XCiT, or contain such a tensor.
    """
    for name, value in extract(weights)[0].items():
        if value.layout == strided and value.nbytes > value.untyped_storage().nbytes():
            raise UserError(
                f"{name} claims the shape {tuple(value.shape)}, but the file contains fewer values; give an "
                "intact checkpoint."
            )


def adapt_state_dict(
    backbone: XCiT, state_dict: MutableMapping[str, Any], prefix: str, metadata: Any, strict: bool, *_: Any
) -> None:
    """Translates entries of any dialect to the names of the backbone, in place. A pre-hook of ``load_state_dict``.

    If loading is not strict, entries without an XCiT do not change: a checkpoint of a head, for example. Only
    :meth:`xcit_dense.XCiT.load_state_dict` can be not strict. A backbone inside a larger model always loads strictly.

    Args:
        backbone: The backbone that loads.
        state_dict: The entries.
        prefix: The prefix of the backbone's names in the model that loads.
        metadata: The metadata of the backbone's entries. :func:`mark_strictness` adds the key ``'strict'``.
        strict: Not used: PyTorch and MMEngine pass True whatever the caller asks for.

    Raises:
        UserError: The entries do not contain an XCiT, or contain another variant or an XCiT that fits in part. The
            backbone does not change.
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
    """Finds the weights that an XCiT loads from a checkpoint.

    Args:
        state: Entries of a checkpoint in any dialect.
        prefix: The prefix of the XCiT's names in the model. If no entry begins with it, the entries may be those of a
            single XCiT.
        own: The state of the XCiT.
        strict: Whether the entries must have exactly the names of ``own``. The shapes must always agree.

    Returns:
        The weights by the names of ``own``, and a report. Entries that a classifier does not contain have the values
        of ``own``.

    Raises:
        UserError: The entries do not contain an XCiT, or contain another variant or an XCiT that fits in part.
    """
    wanted = f"XCiT {_name(own)}"
    found: Mapping[str, Any] = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    if not found and STEM in unwrap(state):  # the entries of a single XCiT
        found = state
    if not found and prefix:
        raise UserError(
            f"no XCiT weights: nothing begins with {prefix!r}, where this model has its {wanted}; give weights of the "
            "complete model. The weights of a backbone go into model.backbone.init_cfg = dict(type='Pretrained', "
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
            "mlp_ratio, qkv_bias and in_channels of the checkpoint, or give a complete checkpoint."
        )
    weights.update({name: own[name] for name in kept})
    return weights, Report(matched, left_out, missing, unexpected)


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
    # pos_embed is timm's name.
    return {name.replace("pos_embed.", "pos_embeder.", 1): value for name, value in names.items()}, left_out


def find_roots(weights: Mapping[str, Tensor]) -> list[str]:
    """Finds the prefix of each XCiT among some weights: ``'backbone.'``, for example, or ``''``.

    Args:
        weights: Tensors by name.

    Returns:
        The prefixes.
    """
    stems = [name for name, value in weights.items() if f".{name}".endswith(f".{STEM}") and value.ndim == 4]
    return [name.removesuffix(STEM) for name in stems]


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
