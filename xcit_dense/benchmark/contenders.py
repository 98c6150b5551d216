"""The contenders, with equal weights: this XCiT in several forms, and timm's XCiT with the same pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from xcit_dense.benchmark.exported import Exported
from xcit_dense.benchmark.options import Options
from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.export.runtimes import Runtime
from xcit_dense.inference.deploy import deploy
from xcit_dense.models.pyramid import STRIDES, make_levels
from xcit_dense.models.xca import XCA, Form
from xcit_dense.models.xcit import XCiT
from xcit_dense.variants import get_variant

State = dict[str, Tensor]


class TimmXCiT(nn.Module):
    """timm's XCiT with a pyramid of plain layers, without class attention and final norm.

    The weights have the names of this package, except for ``pos_embed`` (:func:`to_timm`).

    Args:
        variant: The variant of XCiT.
        out_strides: The strides of the levels.
        out_indices: The block that makes each level. None takes the variant's, for four levels.
    """

    def __init__(
        self, variant: str, out_strides: Sequence[int] = STRIDES, out_indices: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        shape = get_variant(variant)
        trunk: Any = timm.create_model(f"xcit_{variant.removeprefix('xcit_')}_224", num_classes=0)
        self.out_indices = tuple(out_indices or shape.out_indices)
        self.patch_embed, self.pos_embed = trunk.patch_embed, trunk.pos_embed
        self.blocks = trunk.blocks[: self.out_indices[-1] + 1]
        levels = make_levels(shape.embed_dim, shape.patch_size, nn.BatchNorm2d, out_strides)
        self.level_names = tuple(levels)
        for name, level in levels.items():
            self.add_module(name, nn.Sequential(*level) if isinstance(level, nn.Sequential) else level)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the levels of images (B, 3, H, W)."""
        x, (height, width) = self.patch_embed(images)
        x = x + self.pos_embed(len(x), height, width).reshape(len(x), -1, x.shape[1]).permute(0, 2, 1)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x, height, width)
            if index in self.out_indices:
                maps.append(x.permute(0, 2, 1).reshape(len(x), -1, height, width))
        return tuple(self.get_submodule(name)(x) for name, x in zip(self.level_names, maps, strict=True))


def to_timm(weights: State) -> State:
    """Returns weights of this package's XCiT, or of a model that contains it, by the names of :class:`TimmXCiT`."""
    return {name.replace("pos_embeder", "pos_embed"): value for name, value in weights.items()}


def build_ours(variant: str, weights: State, form: Form | None = None, **options: Any) -> nn.Module:
    """Makes the XCiT of this package. ``form`` forces a form of XCA."""
    model = XCiT(variant, norm_cfg="BN", **options)
    model.load_state_dict(weights)
    for module in model.modules():
        if isinstance(module, XCA):
            module.form = form
    return model


def build_timm(variant: str, weights: State, fused: bool = False) -> nn.Module:
    """Makes timm's XCiT. ``fused`` turns on timm's experimental fused attention."""
    model = TimmXCiT(variant)
    for block in model.blocks:
        block.attn.fused_attn = fused
    model.load_state_dict(to_timm(weights))
    return model


@dataclass(frozen=True)
class Contender:
    """How a contender is built from a variant and weights, and when it runs."""

    build: Callable[[str, State], nn.Module]
    compiled: bool = False
    deployed: bool = False  # at inference
    train: bool | None = None  # True: only for training; False: only for inference; None: for both
    runtime: Runtime | None = None  # computes the exported model, in place of PyTorch

    @property
    def is_module(self) -> bool:
        """Whether PyTorch computes the contender module by module, so that operations can be counted."""
        return not self.compiled and self.runtime is None


CONTENDERS = {
    "ours": Contender(build_ours),
    "deployed": Contender(build_ours, deployed=True, train=False),
    "compiled": Contender(build_ours, compiled=True, deployed=True),
    "checkpointed": Contender(partial(build_ours, with_cp=True), train=True),
    "literal": Contender(partial(build_ours, form="literal")),
    "timm": Contender(build_timm),
    "timm-compiled": Contender(build_timm, compiled=True),
    "timm-fused": Contender(partial(build_timm, fused=True)),
    "timm-fused-compiled": Contender(partial(build_timm, fused=True), compiled=True),
    "onnxruntime": Contender(build_ours, deployed=True, train=False, runtime="onnxruntime"),
    "openvino": Contender(build_ours, deployed=True, train=False, runtime="openvino"),
    "timm-onnxruntime": Contender(build_timm, train=False, runtime="onnxruntime"),
    "timm-openvino": Contender(build_timm, train=False, runtime="openvino"),
}


def choose(names: str | None, train: bool) -> tuple[str, ...]:
    """Checks comma-separated names. The default is every contender of PyTorch for training, or for inference."""
    fitting = tuple(name for name, one in CONTENDERS.items() if one.train in (None, train))
    if names is not None:
        return read_names(names, fitting, train)
    return tuple(name for name in fitting if CONTENDERS[name].runtime is None)


def read_names(names: str, fitting: Sequence[str], train: bool) -> tuple[str, ...]:
    """Reads comma-separated names of contenders.

    Args:
        names: The text.
        fitting: The contenders that fit training or inference.
        train: Whether the step is a training step, for the message.

    Raises:
        UserError: A name is not one of those that fit.
    """
    chosen = tuple(dict.fromkeys(names.split(",")))
    for name in chosen:
        if name not in fitting:
            raise UserError(did_you_mean(f"contender in {'training' if train else 'inference'}", name, fitting))
    return chosen


def make_weights(variant: str) -> State:
    """Makes weights, the same at each call."""
    torch.manual_seed(0)
    return add_noise(XCiT(variant, norm_cfg="BN").state_dict())


def add_noise(weights: State) -> State:
    """Adds noise to zeros and ones in place, because they would hide mistakes."""
    for value in weights.values():
        if value.is_floating_point() and value.ndim in (1, 3):  # biases, norms, gains; temperatures
            value += 0.1 * torch.randn_like(value)
    return weights


def make(name: str, options: Options) -> nn.Module:
    """Makes a contender, ready to run."""
    contender = CONTENDERS[name]
    model = contender.build(options.variant, make_weights(options.variant)).train(options.train)
    if contender.deployed and not options.train:
        deploy(model)
    if contender.runtime:
        return Exported(model, contender.runtime, any_size=contender.build is build_ours)
    if contender.compiled:
        model.compile(dynamic=False)  # the time at one size must not depend on the sizes before
    return model.to(options.device)
