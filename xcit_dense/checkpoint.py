"""Published weights in any of their dialects, read safely and translated to the names of :class:`xcit_dense.XCiT`.

The dialects: the dense backbone (inside a detector or segmentor, under ``backbone.``, or alone), the ImageNet and DINO
classifiers (wrapped in ``'model'``, with class-attention layers and a head), and timm's classifier (``pos_embed`` for
``pos_embeder``). A classifier has no pyramid: its levels keep the values they have.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import zoo
from .errors import UserError
from .variants import variant_name

_WRAPPERS = ("state_dict", "model", "teacher")
_STEM = "patch_embed.proj.0.0.weight"
_CLASSIFIER = ("cls_token", "cls_attn_blocks.", "norm.", "head.")
_PYRAMID = ("fpn1.", "fpn2.", "fpn3.", "fpn4.")


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint's entries, by name.

    Attributes:
        matched: Loaded.
        left_out: In the checkpoint, without use in dense prediction: class attention, final norm and head.
        missing: The pyramid, where the checkpoint is a classifier's.
    """

    matched: list[str]
    left_out: list[str]
    missing: list[str]

    def __str__(self) -> str:
        text = f"{len(self.matched)} entries loaded"
        if self.left_out:
            text += f", {len(self.left_out)} of the classifier left out"
        if self.missing:
            text += f", {len(self.missing)} of the pyramid not in the file and left as initialised"
        return text


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.pth`` or ``.safetensors`` file to CPU memory, without executing pickled code.

    Args:
        path: The file.

    Returns:
        Tensors by name, taken out of the ``'state_dict'``, ``'model'`` or ``'teacher'`` they are wrapped in.

    Raises:
        UserError: No such file, not a checkpoint, or one that would execute code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No checkpoint at {path}; check the path.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file, or was cut short: {error}.") from error
    try:
        # The published classifiers keep their command line, a Namespace of plain values, beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on a file that is no checkpoint depends on its bytes
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise UserError(
                f"{path} holds more than weights, {code[1]}, and was not executed; give a file of weights alone, as "
                "torch.save(model.state_dict(), path) writes."
            ) from error
        raise UserError(f"{path} is not a checkpoint, or was cut short ({type(error).__name__}).") from error
    try:
        weights = _unwrap(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return {name: value for name, value in weights.items() if isinstance(name, str) and isinstance(value, Tensor)}


def load_weights(backbone: nn.Module, checkpoint: str | Path) -> Report:
    """Loads weights of any published dialect into an :class:`xcit_dense.XCiT`.

    Args:
        backbone: Where to.
        checkpoint: A ``.pth`` or ``.safetensors`` file, an http(s) address, or ``xcit://NAME`` with a name of
            :data:`xcit_dense.zoo.CLASSIFIERS`.

    Returns:
        What was loaded, left out and missing.

    Raises:
        UserError: No such file, not an XCiT checkpoint, or another variant's; the message names the likely one. The
            backbone is left as it was.
    """
    path = zoo.locate(checkpoint)
    weights = read_weights(path)
    own = backbone.state_dict()
    try:
        report = _translate(weights, "", own)
        _check_fit(weights, own)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    backbone.load_state_dict(weights)
    return report


def adapt_state_dict(
    backbone: nn.Module, state_dict: MutableMapping[str, Any], prefix: str, metadata: Any, strict: bool, *_: Any
) -> None:
    """Pre-hook of ``load_state_dict``: turns any published dialect into the backbone's names, in place.

    Args:
        backbone: The :class:`xcit_dense.XCiT` that loads.
        state_dict: Entries to load.
        prefix: Where the backbone sits in the model that loads.
        metadata: Not used.
        strict: Whether whole weights are expected. Where not, entries without a whole XCiT are left as they are:
            a head's alone, for example. MMEngine's loader always expects whole weights of a backbone.

    Raises:
        UserError: The entries hold no XCiT, or another variant.
    """
    if not strict and not any(name.startswith(prefix) and name.endswith(_STEM) for name in _unwrap(state_dict)):
        return
    report = _translate(state_dict, prefix, backbone.state_dict())
    logging.getLogger(__name__).info("XCiT: %s.", report)


def _translate(state: MutableMapping[str, Any], prefix: str, own: Mapping[str, Tensor]) -> Report:
    """Renames the entries of ``state`` to those of ``own``, under ``prefix``."""
    found = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    inner = _unwrap({name.removeprefix(prefix): value for name, value in found.items()})
    root = next((name.removesuffix(_STEM) for name in inner if name.endswith(_STEM)), None)
    if root is None:
        some = f" ({', '.join(list(inner)[:3])} ...)" if inner else ""
        raise UserError(
            f"no XCiT weights among the {len(inner)} entries{some}: none is called {_STEM!r}; give a checkpoint of "
            f"XCiT {_name(own)}."
        )
    names = {name.removeprefix(root): value for name, value in inner.items() if name.startswith(root)}
    names = {_dense_name(name): value for name, value in names.items()}
    if _shape(names) != _shape(own):
        raise UserError(
            f"the checkpoint is of XCiT {_name(names)}, the model of XCiT {_name(own)}; give a checkpoint of "
            f"{_name(own)}, or build the model as {_name(names)}."
        )
    left_out = [name for name in names if name.startswith(_CLASSIFIER)]
    missing = []
    if not any(name.startswith(_PYRAMID) for name in names):
        missing = [name for name in own if name.startswith(_PYRAMID)]
    for name in left_out:
        del names[name]
    state.update({prefix + name: own[name] for name in missing})
    state.update({prefix + name: value for name, value in names.items()})
    return Report([name for name in names if name in own], left_out, missing)


def _check_fit(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises a UserError where ``load_state_dict`` would stop half-way."""
    counters = "num_batches_tracked"  # absent from the oldest checkpoints, which PyTorch knows how to load
    faults = [f"{name} is missing" for name in own if name not in weights and not name.endswith(counters)]
    faults += [f"{name} is unknown" for name in weights if name not in own]
    faults += [
        f"{name} has shape {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    if faults:
        more = f", and {len(faults) - 1} more such faults" if len(faults) > 1 else ""
        raise UserError(
            f"{faults[0]}{more}; build the model with the num_heads, mlp_ratio, qkv_bias and in_channels of the "
            "checkpoint, or give a whole one."
        )


def _unwrap(content: Any) -> Mapping[str, Any]:
    """The mapping from names to tensors inside what a file holds."""
    while isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            return content
        content = content[wrapper]
    raise UserError(f"a checkpoint is a dictionary of tensors, this is a {type(content).__name__}.")


def _dense_name(name: str) -> str:
    """The dense backbone's name for timm's."""
    return name.replace("pos_embed.", "pos_embeder.", 1)


def _shape(weights: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Width, depth and patch size that the names and shapes of an XCiT's weights tell."""
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    stem = [name for name in weights if name.startswith("patch_embed.proj.") and name.endswith(".0.weight")]
    width = max(weights[name].shape[0] for name in stem)
    return width, len(blocks), 2 ** len(stem)


def _name(weights: Mapping[str, Tensor]) -> str:
    width, depth, patch_size = _shape(weights)
    return variant_name(width, depth, patch_size) or f"embed_dim={width}, depth={depth}, patch_size={patch_size}"
