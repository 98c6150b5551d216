"""The contenders, with equal weights: a config's model in several forms, with the library's heads, on timm's XCiT."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from xcit_dense.benchmark.contenders import State, TimmXCiT, add_noise, read_names, to_timm
from xcit_dense.errors import UserError
from xcit_dense.export.runtimes import Runtime
from xcit_dense.inference.deploy import deploy
from xcit_dense.mm.benchmark.options import ModelOptions
from xcit_dense.mm.config.libraries import import_library
from xcit_dense.mm.config.walk import dicts_in, name_of
from xcit_dense.mm.runtime.launch import use_plain_norms
from xcit_dense.models.xcit import XCiT
from xcit_dense.ops.winograd_conv import use_winograd

_PREFIX = "Fused"
"""What the names of this package's heads begin with. The rest is the name of the library's head."""


@dataclass(frozen=True)
class Contender:
    """How a contender differs from the model of the config, and when it runs."""

    library_heads: bool = False
    timm: bool = False  # timm's XCiT is the backbone
    compiled: bool = False
    deployed: bool = False  # at inference
    train: bool | None = None  # False: only for inference; None: for both
    runtime: Runtime | None = None  # computes the exported model, in place of PyTorch

    @property
    def is_module(self) -> bool:
        """Whether PyTorch computes the contender module by module, so that operations can be counted."""
        return not self.compiled and self.runtime is None


CONTENDERS = {
    "ours": Contender(),
    "deployed": Contender(deployed=True, train=False),
    "compiled": Contender(compiled=True, deployed=True),
    "library-heads": Contender(library_heads=True),
    "timm": Contender(library_heads=True, timm=True),
    "timm-compiled": Contender(library_heads=True, timm=True, compiled=True),
    "onnxruntime": Contender(deployed=True, train=False, runtime="onnxruntime"),
    "openvino": Contender(deployed=True, train=False, runtime="openvino"),
}

REFERENCE = "library-heads"
"""The contender that the others are compared with."""


def choose(names: str | None, config: Config, train: bool, on_cpu: bool, dtype: str) -> tuple[str, ...]:
    """Checks comma-separated names. The default is every contender that fits the model, the step and the device.

    Args:
        names: The names, or None.
        config: The config of the model.
        train: Whether the step is a training step.
        on_cpu: Whether the device is the CPU.
        dtype: The number format.

    Raises:
        UserError: A name is unknown, or does not fit the model or the step.
    """
    fitting = tuple(name for name, one in CONTENDERS.items() if one.train in (None, train))
    reason = find_fault_for_timm(config)
    if names is None:
        possible = [name for name in fitting if not (CONTENDERS[name].timm and reason)]
        has_runtimes = on_cpu and dtype == "fp32"
        return tuple(name for name in possible if has_runtimes or not CONTENDERS[name].runtime)
    chosen = read_names(names, fitting, train)
    for name in chosen:
        if CONTENDERS[name].timm and reason:
            raise UserError(f"{name} needs timm's XCiT, and {reason}; leave {name} out of --contenders.")
    return chosen


def find_fault_for_timm(config: Config) -> str | None:
    """Returns why timm's XCiT cannot be the backbone of a config's model, or None."""
    backbone = config.model.backbone
    if name_of(backbone) != "XCiT":
        return f"the backbone of the config is {name_of(backbone)}"
    if not backbone.get("variant"):
        return "the backbone of the config is not a variant by name"
    if backbone.get("in_channels", 3) != 3:
        return f"the backbone of the config takes {backbone.in_channels} bands"
    return None


def prepare_config(config: Config) -> Config:
    """Copies a config for one process, without stochastic depth, which the compared models draw differently."""
    config = deepcopy(config)
    use_plain_norms(config)
    config.model.backbone.pop("drop_path_rate", None)
    return config


def make_weights(config: Config) -> State:
    """Makes weights for a config's model, the same at each call."""
    torch.manual_seed(0)
    return add_noise(build(config).state_dict())


def make(name: str, config: Config, weights: State, options: ModelOptions) -> nn.Module:
    """Makes a contender that PyTorch computes, ready to run.

    Args:
        name: The name of the contender.
        config: The config, prepared.
        weights: Weights of the config's model.
        options: Says whether the model trains, and where.
    """
    contender = CONTENDERS[name]
    model = build(use_library_heads(config) if contender.library_heads else config)
    if contender.timm:
        replace_backbone(model, config)
    model.load_state_dict(to_timm(weights) if contender.timm else weights)
    model.train(options.train)
    if not contender.library_heads and any(name_of(hook) == "WinogradHook" for hook in config.get("custom_hooks", ())):
        use_winograd(model)
    if contender.deployed and not options.train:
        deploy(model)
        model.keeps_logits = False  # of a FusedEncoderDecoder, as in predictions
    model.to(options.device)
    if contender.compiled:
        compile_parts(model)
    return model


def build(config: Config) -> Any:
    """Builds a config's model with random weights."""
    init_default_scope(config.default_scope)
    import_library(config.default_scope, "models")
    return import_module(f"{config.default_scope}.registry").MODELS.build(deepcopy(config.model))


def use_library_heads(config: Config) -> Config:
    """Copies a config and puts the library's parts in the place of ours, from which ours derive.

    RoIAlign becomes torchvision's, which mmcv offers too. Without compiled operators, mmcv's own would be ours.
    """
    config = deepcopy(config)
    init_default_scope(config.default_scope)
    registry = import_module(f"{config.default_scope}.registry").MODELS
    for part in dicts_in(config.model):
        kind = part.get("type")
        found: Any = registry.get(kind) if isinstance(kind, str) and name_of(part).startswith(_PREFIX) else kind
        if isinstance(found, type) and found.__module__.startswith("xcit_dense.mm."):
            part["type"] = next(base for base in found.__mro__ if not base.__module__.startswith("xcit_dense."))
        if name_of(part) == "RoIAlign":
            part["use_torchvision"] = True
    return config


def replace_backbone(model: Any, config: Config) -> None:
    """Puts timm's XCiT in the place of a model's backbone, with the same levels and the same frozen parameters."""
    ours: XCiT = model.backbone
    theirs = TimmXCiT(config.model.backbone.variant, ours.out_strides, ours.out_indices)
    trained = {name: value.requires_grad for name, value in ours.named_parameters()}
    for name, value in theirs.named_parameters():
        value.requires_grad = trained.get(name, True)
    model.backbone = theirs


def compile_parts(model: Any) -> None:
    """Compiles each part of a model that maps tensors to tensors.

    The code between the parts works with objects and lists of changing lengths, which ``torch.compile`` cannot record.
    Parts that take regions compile for any number of regions, because the number changes from image to image.
    """
    for name, part in parts_of(model):
        part.forward = torch.compile(part.forward, dynamic=name.startswith("roi_head"))


def parts_of(model: Any) -> list[tuple[str, Any]]:
    """Returns the parts of a model that map tensors to tensors, by their names in the model."""
    names = ["backbone", "neck", "rpn_head", "bbox_head", "decode_head", "auxiliary_head"]
    names += ["roi_head.bbox_head", "roi_head.mask_head"]
    found: list[tuple[str, Any]] = []
    for name in names:
        part = find_part(model, name)
        if isinstance(part, nn.ModuleList):
            found += [(f"{name}.{number}", one) for number, one in enumerate(part)]
        elif part is not None:
            found.append((name, part))
    return found


def find_part(model: Any, name: str) -> Any:
    """Returns a part of a model by its name with dots, or None."""
    for word in name.split("."):
        model = getattr(model, word, None)
    return model
