"""Any plain transformer of timm as a backbone for dense prediction, with XCiT's pyramid behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.models import token_names
from xcit_dense.models.adapters import Adapter, make_timm_trunk
from xcit_dense.models.backbone import Backbone, check_rates, choose_out_indices, is_integer
from xcit_dense.models.loading import Report
from xcit_dense.models.pyramid import STRIDES, make_levels
from xcit_dense.ops.norms import NormConfig, make_norm_layer
from xcit_dense.weights.zoo import SCHEME, TIMM, ZOO


class TokenPyramid(Backbone):
    """A plain transformer with a four-level pyramid.

    A plain transformer keeps one resolution of tokens through all blocks: ViT, DeiT, DeiT3, DINO, DINOv2, DINOv3,
    EVA02, SAM, CaiT, BEiT and BEiT v2. timm builds the transformer. The outputs of some blocks, without timm's final
    norm, become levels at strides 4, 8, 16 and 32 by the same modules as those of :class:`xcit_dense.XCiT`. The weights
    are random at first.

    Images have any size. Sizes round up to patches. Positions adapt to the size: absolute positions are resampled, as
    timm does; the tables of BEiT are resized as the authors do when they load weights
    (:mod:`xcit_dense.models.relative_position`). The cost grows with the square of the number of tokens. Large
    attention maps and biases are computed in parts, so the memory does not grow that way.

    Args:
        variant: timm's name of the model: ``'beit_base_patch16_224'``, ``'vit_base_patch14_dinov2'``. Patches of 14
            pixels are resampled to 16 when weights are loaded.
        img_size: Pixels of the images for which the model has positions: a side, or height and width. By default the
            size in timm. Other sizes run too. Weights of another size are resized when they are loaded.
        model_options: Further arguments of timm's model: ``dict(embed_dim=64, depth=4, num_heads=4)`` makes a small
            one.
        drop_rate: Dropout probability of tokens and projections, in [0, 1].
        attn_drop_rate: Dropout probability of the attention, in [0, 1].
        drop_path_rate: Probability of skipping a branch of a block (stochastic depth), in [0, 1]. In CaiT all blocks
            have this probability. In the other models it grows linearly from 0 to this value in the last block.
        out_strides: Strides of the levels in pixels, as in :class:`xcit_dense.XCiT`.
        out_indices: The block that makes each level, as in :class:`xcit_dense.XCiT`. Later blocks are not built.
        in_channels: Channels of the images.
        norm_cfg: Batch norm of the pyramid, as in :class:`xcit_dense.XCiT`.
        norm_eval: Whether the batch norms stay in evaluation mode in training, so that their statistics do not change.
        frozen_stages: -1 trains everything. 0 freezes patch embedding, positions and class token. n > 0 also freezes
            the first n blocks. Frozen parameters do not require gradients, and frozen modules stay in evaluation mode.
        with_cp: Activation checkpointing: blocks are recomputed in the backward pass, which saves memory.

    Attributes:
        trunk: timm's model, without its classifier.
        embed_dim: Channels of a token and of each level.
        patch_size: Pixels of a token along each side, 8 or 16.
        full_depth: The number of blocks of timm's model. The trunk has fewer if the levels do not need all of them.
        out_channels: Channels of each level.
        out_strides: Strides of the levels in pixels.

    Raises:
        UserError: timm has no such model, the model is not a plain transformer, or an option is out of range. The
            message says what to write.

    Example:
        >>> import torch
        >>> from xcit_dense import TokenPyramid
        >>> small = dict(embed_dim=32, depth=4, num_heads=2)
        >>> backbone = TokenPyramid("beit_base_patch16_224", model_options=small).eval()
        >>> levels = backbone(torch.rand(1, 3, 64, 90))
        >>> [tuple(level.shape) for level in levels]
        [(1, 32, 16, 24), (1, 32, 8, 12), (1, 32, 4, 6), (1, 32, 2, 3)]
    """

    kind = "TokenPyramid"

    def __init__(
        self,
        variant: str | None = None,
        *,
        img_size: int | Sequence[int] | None = None,
        model_options: Mapping[str, Any] | None = None,
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
        check_rates(drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate)
        self.variant = variant
        given = {**(model_options or {})}
        if img_size is not None:
            given["img_size"] = _check_size(img_size)
        rates = {
            "pos_drop_rate": drop_rate,
            "proj_drop_rate": drop_rate,
            "attn_drop_rate": attn_drop_rate,
            "drop_path_rate": drop_path_rate,
        }
        trunk, self._adapter = self.make_trunk(variant, in_chans=in_channels, **rates, **given)
        depth = len(trunk.blocks)
        self.out_indices = choose_out_indices(out_indices, depth, self.out_strides)
        self._adapter.prepare(trunk, sorted({*self.out_indices}))
        self.full_depth = depth
        self.trunk = trunk
        self.embed_dim: int = trunk.embed_dim
        self.patch_size: int = trunk.patch_embed.patch_size[0]
        self.out_channels = (self.embed_dim,) * len(self.out_strides)
        levels = make_levels(self.embed_dim, self.patch_size, make_norm_layer(norm_cfg), self.out_strides)
        self.level_names = tuple(levels)
        for name, level in levels.items():
            self.add_module(name, level)
        self.finish(frozen_stages)

    def make_trunk(self, variant: str | None, **options: Any) -> tuple[Any, Adapter]:
        """Builds the transformer, and finds its adapter. A subclass may return a transformer of its own.

        A transformer has ``embed_dim``, ``patch_embed`` (timm's ``PatchEmbed``) and ``blocks``.

        Args:
            variant: The value of the argument of the same name.
            **options: Arguments of timm's model: ``in_chans``, rates, ``img_size`` if given, and ``model_options``.

        Raises:
            UserError: timm has no such model, or the model is not a plain transformer with patches of 8, 14 or 16
                pixels.
        """
        return make_timm_trunk(variant, **options)

    @property
    def name(self) -> str:
        """The class and timm's name of the model."""
        return f"{self.kind} {self.variant or type(self.trunk).__name__}"

    def list_blocks(self) -> Sequence[nn.Module]:
        """Lists the blocks of the transformer."""
        return list(self.trunk.blocks)

    def embedding(self) -> Iterable[nn.Module | nn.Parameter]:
        """Lists what comes before the blocks: patch embedding, positions, class token, norm."""
        for name, module in self.trunk.named_children():
            if name != "blocks":
                yield module
        yield from self.trunk.parameters(recurse=False)

    def level_modules(self) -> Sequence[str]:
        """Returns the names of the pyramid's modules."""
        return self.level_names

    def no_weight_decay(self) -> set[str]:
        """Returns the parameters of the transformer that timm trains without weight decay, such as positions."""
        own = {name for name, _ in self.named_parameters()}
        return {f"trunk.{name}" for name in self.trunk.no_weight_decay()} & own

    def layer_of(self, name: str) -> int:
        """Returns 0 for what comes before the blocks, n for the n-th block, and depth + 1 for the pyramid."""
        parts = name.split(".")
        if parts[0] != "trunk":
            return len(self.trunk.blocks) + 1
        return int(parts[2]) + 1 if parts[1] == "blocks" else 0

    def make_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the levels.

        Args:
            images: (B, in_channels, H, W), checked, in the dtype of the weights.

        Returns:
            A map for each stride. There are h = ceil(H / p) rows and w = ceil(W / p) columns of tokens of patch size
            p. A level of stride s has h p / s rows and w p / s columns, rounded down, and at least 1.
        """
        recompute = self.with_cp and self.training
        indices = sorted({*self.out_indices})  # a block may make several levels
        maps = dict(zip(indices, self._adapter.forward(self.trunk, images, indices, self.run_block, recompute)))
        levels = []
        for name, index in zip(self.level_names, self.out_indices):
            levels.append(self.get_submodule(name)(maps[index]))
        return tuple(levels)

    @classmethod
    def find_roots(cls, state: Mapping[str, Any]) -> list[str]:
        """Finds the prefix of each plain transformer in a checkpoint."""
        return token_names.find_roots(state)

    def translate(
        self, state: Mapping[str, Any], prefix: str = "", strict: bool = True
    ) -> tuple[dict[str, Tensor], Report]:
        """Finds the weights of this backbone in a checkpoint (:mod:`xcit_dense.models.token_names`)."""
        return token_names.translate(self, self._adapter, state, prefix, strict)

    def adapt_input(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Adapts the weights of the stem to ``in_channels``."""
        return token_names.adapt_input(state, self.in_channels)

    @classmethod
    def infer_options(cls, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Finds the arguments that build the backbone of some weights of BEiT or CaiT.

        Raises:
            UserError: The weights do not determine the model.
        """
        return token_names.infer_options(weights)

    @classmethod
    def name_options(cls, checkpoint: str | Path) -> dict[str, Any]:
        """Finds the model in ``timm://NAME.TAG``, or in the name of a published weight."""
        text = str(checkpoint)
        if text.startswith(TIMM):
            return {"variant": text.removeprefix(TIMM).partition(".")[0]}
        published = ZOO.get(text.removeprefix(SCHEME))
        return {"variant": published.variant} if published is not None else {}


def _check_size(size: Any) -> int | tuple[int, int]:
    sides = [size, size] if is_integer(size) else list(size) if isinstance(size, Sequence) else []
    if len(sides) != 2 or not all(is_integer(side) and side > 0 for side in sides):
        raise UserError(f"img_size={size!r} must be a side in pixels, or height and width; write 640 or (512, 768).")
    return sides[0], sides[1]
