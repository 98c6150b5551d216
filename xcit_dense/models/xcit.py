"""XCiT as a backbone for dense prediction: stem, XCA blocks, pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.models import state_dict
from xcit_dense.models.backbone import Backbone, check_rates, choose_out_indices, is_integer, is_number
from xcit_dense.models.blocks import ConvPatchEmbed, PositionalEncodingFourier, XCABlock, init_linear
from xcit_dense.models.loading import Report
from xcit_dense.models.pyramid import STRIDES, make_levels
from xcit_dense.ops.conv import channels_last
from xcit_dense.ops.layers import floating_weight
from xcit_dense.ops.norms import NormConfig, make_norm_layer
from xcit_dense.variants import Variant, get_variant

ENCODINGS = 4
"""Sizes whose positional encodings a deployed model keeps."""


class XCiT(Backbone):
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
        out_strides: Strides of the levels in pixels: all or some of 4, 8, 16, 32 and 64, ascending. The level of stride
            64 is the level of stride 32, pooled once more. Modules of other levels are not built.
        out_indices: The block that makes each level, counted from 0, in ascending order. By default the blocks after a
            third, a half, two thirds and all of the depth make strides 4, 8, 16 and 32, whichever of these strides
            there are. Blocks after the last of these are not built. So ``out_strides=(16,)`` needs two thirds of the
            blocks; ``out_strides=(16,), out_indices=(11,)`` takes stride 16 from the last of 12 blocks.
        in_channels: Channels of the images.
        norm_cfg: Batch norm of stem, LPI and pyramid: ``'BN'``, ``'SyncBN'`` or an MM-style dictionary. SyncBN is
            plain batch norm on CPU and in a single process.
        norm_eval: Whether the batch norms stay in evaluation mode in training, so that their statistics do not change.
        frozen_stages: -1 trains everything. 0 freezes the stem and the positional encoding. n > 0 also freezes the
            first n blocks. Frozen parameters do not require gradients, and frozen modules stay in evaluation mode.
        with_cp: Activation checkpointing: blocks are recomputed in the backward pass, which saves memory.

    Attributes:
        full_depth: The number of blocks of the variant. ``blocks`` has fewer if the levels do not need all of them.
        out_channels: Channels of each level.
        out_strides: Strides of the levels in pixels.
        deployed: Whether :func:`xcit_dense.deploy` has prepared the model for inference. A deployed model cannot train.
        load_report: The :class:`xcit_dense.models.loading.Report` of the last load of weights, or None before it.

    Raises:
        UserError: A name is unknown, or an index or number is out of range. The message says what to write.

    Example:
        >>> import torch
        >>> from xcit_dense import XCiT
        >>> backbone = XCiT("nano_12_p16").eval()
        >>> levels = backbone(torch.rand(1, 3, 64, 96))
        >>> [tuple(level.shape) for level in levels]
        [(1, 128, 16, 24), (1, 128, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
        >>> for_detr = XCiT("nano_12_p16", out_strides=(8, 16, 32)).eval()
        >>> [tuple(level.shape) for level in for_detr(torch.rand(1, 3, 64, 96))]
        [(1, 128, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    """

    kind = "XCiT"

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
        out_strides: Sequence[int] = STRIDES,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        norm_cfg: NormConfig = "SyncBN",
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
    ) -> None:
        super().__init__(in_channels, norm_eval, with_cp, out_strides)
        shape = _resolve(variant, embed_dim, depth, num_heads, patch_size)
        dim = shape.embed_dim
        indices = choose_out_indices(out_indices, shape.depth, self.out_strides)
        check_rates(drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate)
        if not is_number(mlp_ratio) or not 1 <= mlp_ratio * dim < math.inf:
            raise UserError(
                f"mlp_ratio={mlp_ratio!r} must be a number that gives the MLPs at least one channel; write 4, as in "
                "the published variants."
            )
        if eta is not None and not (is_number(eta) and math.isfinite(eta)):
            raise UserError(f"eta={eta!r} must be a finite number; write 1, or 1e-5 for more than 12 blocks.")
        self.embed_dim = dim
        self.patch_size = shape.patch_size
        self.full_depth = shape.depth
        self.out_indices = indices
        self.out_channels = (dim,) * len(self.out_strides)

        norm_layer = make_norm_layer(norm_cfg)
        levels = make_levels(dim, shape.patch_size, norm_layer, self.out_strides)
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
            for _ in range(indices[-1] + 1)
        )
        self.level_names = tuple(levels)
        for name, level in levels.items():
            self.add_module(name, level)

        self.apply(init_linear)
        self.finish(frozen_stages)

    @property
    def name(self) -> str:
        """The name of the variant, or the hyper-parameters."""
        return f"{self.kind} {state_dict.name_of(self.state_dict(), self.full_depth)}"

    def list_blocks(self) -> Sequence[nn.Module]:
        """Lists the XCA blocks."""
        return list(self.blocks)

    def embedding(self) -> Sequence[nn.Module]:
        """Lists the stem and the positional encoding."""
        return self.patch_embed, self.pos_embeder

    def level_modules(self) -> Sequence[str]:
        """Returns the names of the pyramid's modules."""
        return self.level_names

    def layer_of(self, name: str) -> int:
        """Returns 0 for stem and positional encoding, n for the n-th block, and depth + 1 for the pyramid."""
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if part in ("patch_embed", "pos_embeder") else len(self.blocks) + 1

    def make_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the levels.

        Args:
            images: (B, in_channels, H, W), checked, in the dtype of the weights.

        Returns:
            A map for each stride. There are h = ceil(H / p) rows and w = ceil(W / p) columns of tokens of patch size
            p. A level of stride s has h p / s rows and w p / s columns, rounded down, and at least 1.
        """
        return self.levels_of_tokens(self.patch_embed(channels_last(images)))

    def levels_of_tokens(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the levels from the output of the stem.

        Args:
            x: (B, C, h, w), tokens without their positional encoding.

        Returns:
            A map for each stride, see :meth:`make_levels`.
        """
        x = x + self.pos_embeder(*x.shape[2:])
        # Under autocast x has half precision here. A block may add 1e-5 times x to x, which half precision would lose.
        x = channels_last(x.to(floating_weight(self.pos_embeder).dtype))
        x = self.pos_drop(x)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            for name, source in zip(self.level_names, self.out_indices):
                if source == index:
                    levels.append(self.get_submodule(name)(x))
        return tuple(levels)

    def prepare_inference(self) -> None:
        """Keeps the positional encodings of the last sizes."""
        self.pos_embeder.keep = ENCODINGS

    @classmethod
    def find_roots(cls, state: Mapping[str, Any]) -> list[str]:
        """Finds the prefix of each XCiT in a checkpoint."""
        return state_dict.find_roots(state)

    def translate(
        self, state: Mapping[str, Any], prefix: str = "", strict: bool = True
    ) -> tuple[dict[str, Tensor], Report]:
        """Finds the weights of this XCiT in a checkpoint (:func:`xcit_dense.models.state_dict.translate`)."""
        return state_dict.translate(state, prefix, self.state_dict(), strict, self.full_depth, self.level_names)

    def adapt_input(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Adapts the weights of the stem to ``in_channels`` (:func:`xcit_dense.models.state_dict.adapt_input`)."""
        return state_dict.adapt_input(state, self.in_channels)

    @classmethod
    def infer_options(cls, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Finds the arguments of an XCiT from weights (:func:`xcit_dense.models.state_dict.infer_options`)."""
        options = state_dict.infer_options(weights)
        state_dict.check_held(weights)
        return options


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
        least = len(STRIDES) if key == "depth" else 1  # a level for each stride, each from a block of its own
        if not is_integer(value) or value < least:
            raise UserError(
                f"{key}={value!r} must be an integer of at least {least}; write the value of a published variant, "
                "for example small_12_p16."
            )
    return Variant(**shape)
