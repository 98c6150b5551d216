"""XCiT as a backbone for dense prediction: stem, XCA blocks, pyramid."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from xcit_dense.errors import UserError
from xcit_dense.models.blocks import ConvPatchEmbed, PositionalEncodingFourier, XCABlock
from xcit_dense.models.pyramid import STRIDES, make_levels
from xcit_dense.models.state_dict import (
    Report,
    adapt_input,
    adapt_state_dict,
    check_held,
    infer_options,
    mark_strictness,
)
from xcit_dense.ops.checkpointing import recompute_contexts
from xcit_dense.ops.layers import floating_weight
from xcit_dense.ops.norms import NormConfig, make_norm_layer
from xcit_dense.variants import Variant, get_variant
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

if TYPE_CHECKING:
    from typing_extensions import Self


class XCiT(nn.Module):
    """Cross-Covariance Image Transformer with a four-level pyramid.

    Build it by the name of a published variant, ``XCiT('small_12_p16')``, or by the hyper-parameters of the original
    configs, ``XCiT(patch_size=16, embed_dim=384, depth=12, num_heads=8)``. The parameters have the names of the
    published detection and segmentation checkpoints. ``load_state_dict`` translates the names of other published
    checkpoints (see :mod:`xcit_dense.models.state_dict`). The weights are random at first.
    ``xcit_dense.load_weights(backbone, 'xcit://small_12_p16_384_dist')`` loads published weights or a file of your own.
    ``XCiT.from_pretrained('small_12_p16_384_dist')`` builds the backbone and loads the weights in one call.

    Layers may be replaced, wrapped, quantized, parametrized or given hooks: such a layer is called like any module. A
    layer without such changes may be computed from its weights, without a call.

    Source: El-Nouby et al. 2021; the backbone ``xcit.py`` of the original detection and segmentation code.

    Args:
        variant: A name in :data:`xcit_dense.VARIANTS`; fixes ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``.
        patch_size: Pixels of a token along each side, 8 or 16.
        embed_dim: Channels C of a token and of each level.
        depth: Number of XCA blocks.
        num_heads: Heads of the attention; must divide ``embed_dim``.
        mlp_ratio: Hidden channels of the MLPs, divided by C.
        qkv_bias: Whether the projections to Q, K and V have a bias.
        eta: Initial value of the LayerScale gains; by default 1 for up to 12 blocks, and 1e-5 for more.
        drop_rate: Dropout probability of tokens and projections, in [0, 1].
        attn_drop_rate: Dropout probability of the attention matrices, in [0, 1].
        drop_path_rate: Probability of skipping a branch of a block (stochastic depth), in [0, 1].
        out_indices: Four blocks, counted from 0 and ascending, whose tokens make the levels at strides 4, 8, 16 and
            32, in this order. By default the blocks after a third, a half, two thirds and all of the depth.
        in_channels: Channels of the images.
        norm_cfg: Batch norm of stem, LPI and pyramid: ``'BN'``, ``'SyncBN'`` or an MM-style dictionary. SyncBN is
            plain batch norm on CPU and in a single process.
        norm_eval: Whether the batch norms stay in evaluation mode in training, so that their statistics do not change.
        frozen_stages: -1 trains everything. 0 freezes the stem and the positional encoding. n > 0 also freezes the
            first n blocks. Frozen parameters do not require gradients, and frozen modules stay in evaluation mode.
        with_cp: Activation checkpointing: blocks are recomputed in the backward pass, which saves memory.

    Attributes:
        out_channels: Channels of the four levels.
        out_strides: Strides of the four levels in pixels, (4, 8, 16, 32).
        deployed: Whether :func:`xcit_dense.deploy` has prepared the model for inference. A deployed model cannot train.
        load_report: The :class:`xcit_dense.models.state_dict.Report` of the last load of weights, or None before it.

    Raises:
        UserError: A name is unknown, or an index or number is out of range. The message says what to write.

    Example:
        >>> import torch
        >>> from xcit_dense import XCiT
        >>> backbone = XCiT("nano_12_p16").eval()
        >>> levels = backbone(torch.rand(1, 3, 64, 96))
        >>> [tuple(level.shape) for level in levels]
        [(1, 128, 16, 24), (1, 128, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    """

    out_strides = STRIDES

    def __init__(
        self,
        variant: str | None = None,
        *,
        patch_size: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        eta: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        norm_cfg: NormConfig = "SyncBN",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        shape = _resolve(variant, embed_dim, depth, num_heads, patch_size)
        dim = shape.embed_dim
        if out_indices is None:
            out_indices = shape.out_indices
        _check_out_indices(out_indices, shape)
        _check_frozen_stages(frozen_stages, shape.depth)
        for name, rate in (("drop", drop_rate), ("attn_drop", attn_drop_rate), ("drop_path", drop_path_rate)):
            if not _is_number(rate) or not 0 <= rate <= 1:
                raise UserError(f"{name}_rate={rate} is not a probability; write a number from 0 to 1.")
        if not _is_number(mlp_ratio) or not 1 <= mlp_ratio * dim < math.inf:
            raise UserError(
                f"mlp_ratio={mlp_ratio!r} must be a number that gives the MLPs at least one channel; write 4, as in "
                "the published variants."
            )
        if eta is not None and not (_is_number(eta) and math.isfinite(eta)):
            raise UserError(f"eta={eta!r} must be a finite number; write 1, or 1e-5 for more than 12 blocks.")
        if not is_integer(in_channels) or in_channels < 1:
            raise UserError(f"in_channels={in_channels!r} must be an integer of at least 1; write 3 for RGB.")
        self.embed_dim = dim
        self.patch_size = shape.patch_size
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.out_channels = (dim,) * len(STRIDES)
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.deployed = False

        norm_layer = make_norm_layer(norm_cfg)
        levels = make_levels(dim, shape.patch_size, norm_layer)
        self.patch_embed = ConvPatchEmbed(in_channels, dim, shape.patch_size, norm_layer)
        self.pos_embeder = PositionalEncodingFourier(dim)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            XCABlock(
                dim,
                shape.num_heads,
                mlp_ratio,
                qkv_bias,
                drop_rate,
                attn_drop_rate,
                drop_path_rate,
                shape.eta if eta is None else eta,
                norm_layer,
            )
            for _ in range(shape.depth)
        )
        self._level_names = tuple(levels)
        for name, level in levels.items():
            self.add_module(name, level)

        self.apply(_init_linear)
        self.load_report: Report | None = None
        self.register_load_state_dict_pre_hook(adapt_state_dict)
        self._frozen_parameters: set[str] = set()
        self.frozen_stages = frozen_stages

    @classmethod
    def from_pretrained(cls, checkpoint: str | Path, **options: Any) -> Self:
        """Builds an XCiT of the shape of a checkpoint, and loads the checkpoint.

        Args:
            checkpoint: As for :func:`xcit_dense.load_weights`: ``'small_12_p16_384_dist'``, ``'coco/small_12_p16'``,
                an address, a file. The names of all published checkpoints are understood. A classifier does not
                contain a pyramid; the pyramid keeps its random weights.
            **options: Further arguments of the class. They override the values from the checkpoint. A checkpoint gives
                all arguments except ``out_indices`` (the default is the variant's) and the arguments about training.
                With another ``in_channels`` than the checkpoint's, the weights of the stem are adapted
                (:func:`xcit_dense.models.state_dict.adapt_input`).

        Returns:
            The backbone, in training mode like any new module.

        Raises:
            UserError: The checkpoint cannot be read, or does not contain a complete XCiT, or ``options`` do not fit.

        Example:
            >>> import tempfile
            >>> from xcit_dense import XCiT
            >>> path = f"{tempfile.mkdtemp()}/weights.pth"
            >>> torch.save(XCiT("nano_12_p8").state_dict(), path)
            >>> XCiT.from_pretrained(path).patch_size
            8
            >>> XCiT.from_pretrained(path, in_channels=4)(torch.rand(1, 4, 32, 32))[0].shape
            torch.Size([1, 128, 8, 8])
        """
        path = resolve(checkpoint)
        weights = read_weights(path)
        with naming(path):
            found = infer_options(weights)
            check_held(weights)
            model = cls(**{**found, **options})
            adapted, change = adapt_input(weights, model.in_channels)
            model.load_state_dict(adapted)
            if change and model.load_report is not None:
                model.load_report = replace(model.load_report, adapted=change)
                model.log(logging.INFO, f"XCiT: {change}.")
        return model

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads a state dict with the names of any published checkpoint (see :mod:`xcit_dense.models.state_dict`).

        Args:
            state_dict: Entries of a checkpoint.
            strict: Whether an incomplete state dict raises an error. A classifier may lack the pyramid.
            assign: As in PyTorch.

        Returns:
            Missing and unexpected names, as in PyTorch; both are empty if ``strict``.

        Raises:
            UserError: The entries belong to another variant or shape. If ``strict``, also: the entries do not belong to
                an XCiT, or only to a part of an XCiT.
        """
        return super().load_state_dict(mark_strictness(state_dict, strict), strict, assign)

    def log(self, level: int, text: str) -> None:
        """Logs a message about a checkpoint. A subclass may override this method, to write to another log.

        Args:
            level: As in :mod:`logging`.
            text: The message.
        """
        logging.getLogger(__name__).log(level, text)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes pyramid features.

        Args:
            images: (B, in_channels, H, W), normalised, of any height and width, in any memory format and
                floating-point dtype. The dtype is converted to the dtype of the weights. The published weights expect
                RGB in [0, 1], minus the mean (0.485, 0.456, 0.406), divided by the standard deviation (0.229, 0.224,
                0.225). A NaN pixel makes every level of its image NaN. In evaluation mode, other images of the batch
                are unaffected.

        Returns:
            Four maps (B, C, H', W') at strides 4, 8, 16 and 32, finest first. There are h = ceil(H / p) rows and w =
            ceil(W / p) columns of tokens of patch size p. A level of stride s has h p / s rows and w p / s columns,
            rounded down, and at least 1.

        Raises:
            UserError: ``images`` is not a tensor (B, in_channels, H, W) of floating-point numbers with at least one
                pixel.
        """
        if not isinstance(images, Tensor):
            raise UserError(
                f"images must be a tensor (B, {self.in_channels}, H, W), got {type(images).__name__}; write "
                "torch.from_numpy(array), or torch.stack(list)."
            )
        if images.ndim != 4:
            raise UserError(
                f"images must be (B, {self.in_channels}, H, W), got {tuple(images.shape)}; make a batch of one image "
                "with image[None]."
            )
        if images.shape[1] != self.in_channels:
            raise UserError(
                f"images must be (B, {self.in_channels}, H, W), got {tuple(images.shape)}; convert them to "
                f"{self.in_channels} channels, or build the backbone with in_channels={images.shape[1]}."
            )
        if images.shape[2] == 0 or images.shape[3] == 0:
            raise UserError(f"images do not have pixels, got {tuple(images.shape)}; give at least 1 x 1.")
        if not images.is_floating_point():
            raise UserError(
                f"images are {images.dtype}, not floating-point numbers; normalise them: "
                "(images.float() / 255 - mean) / std."
            )
        dtype = floating_weight(self.patch_embed).dtype
        x = self.patch_embed(images.to(dtype).contiguous(memory_format=torch.channels_last))  # (B, C, h, w)
        x = x + self.pos_embeder(*x.shape[2:])
        # Under autocast x has half precision here. A block may add 1e-5 times x to x, which half precision would lose.
        x = x.to(floating_weight(self.pos_embeder).dtype, memory_format=torch.channels_last)
        x = self.pos_drop(x)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = self._run(block, x)
            if index in self.out_indices:
                to_level = self.get_submodule(self._level_names[len(levels)])
                levels.append(to_level(x))
        return tuple(levels)

    @property
    def frozen_stages(self) -> int:
        """Number of frozen stages, see the argument of the same name.

        Assigning a number freezes and unfreezes at once. Unfreezing makes the parameters require gradients again that
        freezing has stopped, and no others.
        """
        return self._frozen_stages

    @frozen_stages.setter
    def frozen_stages(self, stages: int) -> None:
        _check_frozen_stages(stages, len(self.blocks))
        for name, parameter in self.named_parameters():
            if name in self._frozen_parameters:
                parameter.requires_grad_(True)
        self._frozen_stages = stages
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self._frozen_parameters = {name for name in trained if not self.get_parameter(name).requires_grad}
        self.train(self.training)

    def train(self, mode: bool = True) -> XCiT:
        """Switches training mode. Frozen stages, and with ``norm_eval`` batch norms, stay in evaluation mode.

        Raises:
            UserError: The model is deployed.
        """
        if mode and self.deployed:
            raise UserError(
                "A deployed XCiT cannot train; build a new one, and deploy a copy: deploy(copy.deepcopy(model))."
            )
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.with_cp and self.training):
            return block(x)

        return checkpoint(block, x, use_reentrant=False, context_fn=partial(recompute_contexts, block))

    def _frozen_modules(self) -> Iterator[nn.Module]:
        if self.frozen_stages >= 0:
            yield self.patch_embed
            yield self.pos_embeder
            yield from self.blocks[: self.frozen_stages]


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        # The original uses trunc_normal_, whose default bounds are -2 and 2, and not two standard deviations. So it
        # sometimes draws a weight of -2.
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _resolve(
    name: str | None,
    embed_dim: int | None,
    depth: int | None,
    num_heads: int | None,
    patch_size: int | None,
) -> Variant:
    """Returns the hyper-parameters, given by the name of a variant or one by one."""
    given = {
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": num_heads,
        "patch_size": patch_size,
    }
    if name is not None:
        variant = get_variant(str(name))
        for key, value in given.items():
            if value is not None and value != getattr(variant, key):
                raise UserError(
                    f"{name!r} has {key}={getattr(variant, key)}, not {value}; leave {key} out, or leave out "
                    f"the name and write {', '.join(given)}."
                )
        return variant
    missing = [key for key, value in given.items() if value is None]
    if missing:
        raise UserError(f"XCiT needs {', '.join(missing)}; write them, or name a variant: XCiT('small_12_p16').")
    shape = {key: value for key, value in given.items() if value is not None}
    for key, value in shape.items():
        least = len(STRIDES) if key == "depth" else 1
        if not is_integer(value) or value < least:
            raise UserError(
                f"{key}={value!r} must be an integer of at least {least}; write the value of a published variant, "
                "for example small_12_p16."
            )
    return Variant(**shape)


def is_integer(value: object) -> bool:
    """Whether a value is an integer and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def _check_frozen_stages(stages: int, depth: int) -> None:
    if not is_integer(stages) or not -1 <= stages <= depth:
        raise UserError(
            f"frozen_stages={stages!r} is out of range; write -1 (train all), 0 (freeze the stem) or up to {depth} "
            "(also freeze this number of blocks)."
        )


def _check_out_indices(indices: Sequence[int], shape: Variant) -> None:
    four = isinstance(indices, Sequence) and len(indices) == len(STRIDES) and all(map(is_integer, indices))
    if not four or not (0 <= indices[0] < indices[1] < indices[2] < indices[3] < shape.depth):
        given = tuple(indices) if isinstance(indices, Sequence) and not isinstance(indices, str) else indices
        raise UserError(
            f"out_indices={given!r} must be four blocks out of 0..{shape.depth - 1}, ascending, one for each of "
            f"the strides {STRIDES}; write for example out_indices={shape.out_indices}."
        )
