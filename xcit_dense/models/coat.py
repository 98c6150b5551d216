"""CoaT as a backbone for dense prediction: serial blocks at four strides, and parallel blocks at three of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.models import coat_names
from xcit_dense.models.backbone import Backbone, check_rates, is_integer, is_number
from xcit_dense.models.blocks import init_linear, map_to_tokens, tokens_to_map
from xcit_dense.models.coat_blocks import (
    NUM_HEADS,
    PARALLEL_LEVELS,
    ParallelBlock,
    PatchEmbed,
    PositionEncoding,
    RelativePositionEncoding,
    SerialBlock,
    Size,
)
from xcit_dense.models.coat_names import LEVELS
from xcit_dense.models.loading import Report, check_held_values
from xcit_dense.models.pyramid import ALL_STRIDES, STRIDES, MaxPool
from xcit_dense.ops.conv import channels_last
from xcit_dense.ops.layers import floating_weight
from xcit_dense.variants import CoaTVariant, get_coat_variant


class CoaT(Backbone):
    """Co-Scale Conv-Attentional Image Transformer with four levels of its own.

    Build it by the name of a published variant, ``CoaT('coat_lite_mini')``, or by the hyper-parameters of the original
    code, ``CoaT(embed_dims=(64, 128, 320, 512), serial_depths=(2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4))``. Each tensor
    has one name: the first of its names in the original code. ``load_state_dict`` understands the published names,
    checks that the aliases of a tensor are equal, and leaves the classifier's entries out
    (:mod:`xcit_dense.models.coat_names`). The weights are random at first. ``CoaT.from_pretrained(checkpoint)`` builds
    the backbone of a checkpoint and loads it.

    The serial blocks of a level process the output of the level before, at half the resolution. The parallel blocks
    process levels 2 to 4 together. The levels are returned without a norm. The attention has eight heads, and its cost
    is linear in the number of tokens.

    Source: Xu et al. 2021; ``src/models/coat.py`` of the original code.

    Args:
        variant: A name in :data:`xcit_dense.variants.COAT_VARIANTS`; fixes the next four arguments.
        embed_dims: Channels of the four levels, multiples of 8.
        serial_depths: Number of serial blocks of each level, at least 1.
        parallel_depth: Number of parallel blocks, by default 0. They need equal channels in levels 2 to 4.
        mlp_ratios: Hidden channels of the MLPs of each level, divided by the level's channels; by default 4.
        qkv_bias: Whether the projections to Q, K and V have a bias.
        drop_rate: Dropout probability of projections, in [0, 1].
        attn_drop_rate: Dropout probability of the softmax of the keys, in [0, 1].
        drop_path_rate: Probability of skipping a branch of a block (stochastic depth), in [0, 1]; the same for each
            block.
        out_strides: Strides of the levels in pixels: all or some of 4, 8, 16, 32 and 64, ascending. The level of stride
            64 is the level of stride 32, pooled once more. Modules on which no level depends are not built. With
            parallel blocks, each level above stride 4 depends on all serial blocks.
        in_channels: Channels of the images.
        norm_eval: Accepted as for the other backbones. It has no effect, because CoaT does not have batch norms.
        frozen_stages: -1 trains everything. 0 freezes the first patch embedding and class token. n > 0 also freezes the
            first n blocks, serial before parallel. The first block of a level freezes with the patch embedding, the
            class token and the position encodings of its level. Frozen parameters do not require gradients, and frozen
            modules stay in evaluation mode.
        with_cp: Activation checkpointing: blocks are recomputed in the backward pass, which saves memory.

    Attributes:
        out_channels: Channels of each level.
        out_strides: Strides of the levels in pixels.

    Raises:
        UserError: A name is unknown, or a number is out of range. The message says what to write.

    Example:
        >>> import torch
        >>> from xcit_dense import CoaT
        >>> backbone = CoaT("coat_lite_tiny").eval()
        >>> levels = backbone(torch.rand(1, 3, 64, 96))
        >>> [tuple(level.shape) for level in levels]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 320, 2, 3)]
    """

    kind = "CoaT"
    patch_size = 4

    def __init__(
        self,
        variant: str | None = None,
        *,
        embed_dims: Sequence[int] | None = None,
        serial_depths: Sequence[int] | None = None,
        parallel_depth: int | None = None,
        mlp_ratios: Sequence[float] | None = None,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        out_strides: Sequence[int] = STRIDES,
        in_channels: int = 3,
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
    ) -> None:
        super().__init__(in_channels, norm_eval, with_cp, out_strides)
        shape = _resolve(variant, embed_dims, serial_depths, parallel_depth, mlp_ratios)
        check_rates(drop=drop_rate, attn_drop=attn_drop_rate, drop_path=drop_path_rate)
        self.shape = shape
        self.serial_depths = shape.serial_depths
        self._sources = tuple(min(ALL_STRIDES.index(stride) + 1, LEVELS[-1]) for stride in self.out_strides)
        self.out_channels = tuple(shape.embed_dims[level - 1] for level in self._sources)
        has_parallel = shape.parallel_depth > 0 and self._sources[-1] >= PARALLEL_LEVELS[0]
        self._built = LEVELS if has_parallel else LEVELS[: self._sources[-1]]

        before = in_channels
        for level, dim in zip(self._built, shape.embed_dims):
            self.register_parameter(f"cls_token{level}", nn.Parameter(0.02 * torch.randn(1, 1, dim)))
            self.add_module(f"patch_embed{level}", PatchEmbed(before, dim, self.patch_size if level == 1 else 2))
            self.add_module(f"cpe{level}", PositionEncoding(dim))
            self.add_module(f"crpe{level}", RelativePositionEncoding(dim))
            before = dim
        rates = qkv_bias, drop_rate, attn_drop_rate, drop_path_rate
        for level, dim, depth, ratio in zip(self._built, shape.embed_dims, shape.serial_depths, shape.mlp_ratios):
            blocks = nn.ModuleList(SerialBlock(dim, ratio, *rates) for _ in range(depth))
            self.add_module(f"serial_blocks{level}", blocks)
        self.parallel_blocks = nn.ModuleList()
        self._joined = [level for level in PARALLEL_LEVELS if level in self._sources]
        for number in range(shape.parallel_depth if has_parallel else 0):
            is_last = number == shape.parallel_depth - 1
            outputs = self._joined if is_last else PARALLEL_LEVELS
            self.parallel_blocks.append(ParallelBlock(shape.embed_dims[1], shape.mlp_ratios[1], *rates, outputs))
        self.pool = MaxPool(2)

        self.apply(init_linear)
        self.finish(frozen_stages)

    @property
    def name(self) -> str:
        """The name of the variant, or the hyper-parameters."""
        return f"{self.kind} {coat_names.name_of(self.shape)}"

    def list_blocks(self) -> Sequence[nn.Module]:
        """Lists the serial blocks of each level, then the parallel blocks."""
        serial = [block for level in self._built for block in self._serial_blocks(level)]
        return [*serial, *self.parallel_blocks]

    def embedding(self) -> Sequence[nn.Module | nn.Parameter]:
        """Lists the first patch embedding and the first class token."""
        return self.get_submodule("patch_embed1"), self.get_parameter("cls_token1")

    def level_modules(self) -> Sequence[str]:
        """Returns the names of the last serial blocks, or of the last parallel block, and of the pooling."""
        names = []
        for level, stride in zip(self._sources, self.out_strides):
            last = f"serial_blocks{level}.{self.serial_depths[level - 1] - 1}"
            if self.parallel_blocks and level in PARALLEL_LEVELS:
                last = f"parallel_blocks.{len(self.parallel_blocks) - 1}"
            names.append("pool" if stride == ALL_STRIDES[-1] else last)
        return names

    def no_weight_decay(self) -> set[str]:
        """Returns the class tokens, which timm trains without weight decay."""
        return {f"cls_token{level}" for level in self._built}

    def layer_of(self, name: str) -> int:
        """Returns the depth of a parameter.

        Args:
            name: The name of the parameter in this backbone.

        Returns:
            0 for the first patch embedding and class token, n for the n-th block. What the blocks of a level share has
            the depth of the first block of the level.
        """
        part, _, rest = name.partition(".")
        if part == "parallel_blocks":
            return sum(self.serial_depths) + int(rest.partition(".")[0]) + 1
        if part in ("patch_embed1", "cls_token1"):
            return 0
        level = int(part[-1])
        number = int(rest.partition(".")[0]) if part.startswith("serial_blocks") else 0
        return self._blocks_before(level) + number + 1

    def make_levels(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the levels.

        Args:
            images: (B, in_channels, H, W), checked, in the dtype of the weights.

        Returns:
            A map for each stride. A level of stride s has H / s rows and W / s columns, rounded down, and at least 1.
            Pixels at the lower and right border that do not fill a patch have no effect.
        """
        dtype = floating_weight(self).dtype
        x = channels_last(images)
        levels: dict[int, Tensor] = {}
        sizes: dict[int, Size] = {}
        for level in self._built:
            # Under autocast the map has half precision here, which would lose digits of each block's addition.
            x = self.get_submodule(f"patch_embed{level}")(x).to(dtype)  # (B, C, H, W)
            size = x.shape[2], x.shape[3]
            # getattr, because shards (FSDP) and replicas (DataParallel) have tensors in place of parameters.
            token = getattr(self, f"cls_token{level}").expand(x.shape[0], -1, -1)  # (B, 1, C)
            tokens = torch.cat((token, map_to_tokens(x)), dim=1)  # (B, 1 + H W, C)
            cpe, crpe = self._encodings(level)
            for block in self._serial_blocks(level):
                tokens = self.run_block(block, tokens, size, cpe, crpe)
            levels[level] = tokens
            sizes[level] = size
            x = tokens_to_map(tokens[:, 1:], *size)
        if self.parallel_blocks:
            cpes, crpes = zip(*map(self._encodings, PARALLEL_LEVELS))
            joined = [levels[level] for level in PARALLEL_LEVELS]
            joined_sizes = [sizes[level] for level in PARALLEL_LEVELS]
            for block in self.parallel_blocks:
                joined = self.run_block(block, joined, joined_sizes, cpes, crpes)
            levels.update(zip(self._joined, joined))
        maps = []
        for level, stride in zip(self._sources, self.out_strides):
            x = tokens_to_map(levels[level][:, 1:], *sizes[level])
            x = self.pool(x) if stride == ALL_STRIDES[-1] else x
            maps.append(channels_last(x))
        return tuple(maps)

    @classmethod
    def find_roots(cls, state: Mapping[str, Any]) -> list[str]:
        """Finds the prefix of each CoaT in a checkpoint."""
        return coat_names.find_roots(state)

    def translate(
        self, state: Mapping[str, Any], prefix: str = "", strict: bool = True
    ) -> tuple[dict[str, Tensor], Report]:
        """Finds the weights of this CoaT in a checkpoint (:func:`xcit_dense.models.coat_names.translate`)."""
        return coat_names.translate(state, prefix, self.state_dict(), strict, self.shape)

    def adapt_input(self, state: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """Adapts the weights of the stem to ``in_channels`` (:func:`xcit_dense.models.coat_names.adapt_input`)."""
        return coat_names.adapt_input(state, self.in_channels)

    @classmethod
    def infer_options(cls, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Finds the arguments of a CoaT from weights (:func:`xcit_dense.models.coat_names.infer_options`)."""
        options = coat_names.infer_options(weights)
        check_held_values(coat_names.extract(weights)[0])
        return options

    def _serial_blocks(self, level: int) -> Iterator[nn.Module]:
        return self.get_submodule(f"serial_blocks{level}").children()

    def _encodings(self, level: int) -> tuple[nn.Module, nn.Module]:
        """Returns the position encoding and the relative position encoding that the blocks of a level share."""
        return self.get_submodule(f"cpe{level}"), self.get_submodule(f"crpe{level}")

    def _blocks_before(self, level: int) -> int:
        """Counts the serial blocks of the levels before a level."""
        return sum(self.serial_depths[: level - 1])

    def _frozen(self) -> Sequence[nn.Module | nn.Parameter]:
        frozen = [*super()._frozen()]
        for level in self._built:
            # The output of a frozen block is constant only if all that it depends on is frozen.
            if self.frozen_stages > self._blocks_before(level):
                frozen += [self.get_submodule(f"patch_embed{level}"), self.get_parameter(f"cls_token{level}")]
                frozen += self._encodings(level)
        return frozen


def _resolve(
    name: str | None,
    embed_dims: Sequence[int] | None,
    serial_depths: Sequence[int] | None,
    parallel_depth: int | None,
    mlp_ratios: Sequence[float] | None,
) -> CoaTVariant:
    """Returns the hyper-parameters, given by the name of a variant or one by one."""
    given = {
        "embed_dims": embed_dims,
        "serial_depths": serial_depths,
        "parallel_depth": parallel_depth,
        "mlp_ratios": mlp_ratios,
    }
    if name is not None:
        variant = get_coat_variant(str(name))
        for key, value in given.items():
            published = getattr(variant, key)
            if value is not None and (tuple(value) if isinstance(value, Sequence) else value) != published:
                raise UserError(
                    f"{name!r} has {key}={published}, not {value}; leave {key} out, or leave out the name and write "
                    f"{', '.join(given)}."
                )
        return variant
    if embed_dims is None or serial_depths is None:
        missing = [key for key in ("embed_dims", "serial_depths") if given[key] is None]
        raise UserError(f"CoaT needs {', '.join(missing)}; write them, or name a variant: CoaT('coat_lite_mini').")
    parallel_depth = 0 if parallel_depth is None else parallel_depth
    mlp_ratios = (4, 4, 4, 4) if mlp_ratios is None else mlp_ratios
    if not _has_four(embed_dims) or not all(is_integer(n) and n > 0 and n % NUM_HEADS == 0 for n in embed_dims):
        raise UserError(
            f"embed_dims={embed_dims!r} must be four multiples of {NUM_HEADS}, one for each level; write for example "
            "embed_dims=(64, 128, 320, 512)."
        )
    if not _has_four(serial_depths) or not all(is_integer(n) and n > 0 for n in serial_depths):
        raise UserError(
            f"serial_depths={serial_depths!r} must be four integers of at least 1, one for each level; write for "
            "example serial_depths=(2, 2, 2, 2)."
        )
    if not is_integer(parallel_depth) or parallel_depth < 0:
        raise UserError(f"parallel_depth={parallel_depth!r} must be an integer of at least 0; write 0 or 6.")
    if not _has_four(mlp_ratios) or not all(
        is_number(ratio) and 1 <= ratio * dim < math.inf for ratio, dim in zip(mlp_ratios, embed_dims)
    ):
        raise UserError(
            f"mlp_ratios={mlp_ratios!r} must be four numbers that give each MLP at least one channel; write for "
            "example mlp_ratios=(8, 8, 4, 4)."
        )
    if parallel_depth and (len({*embed_dims[1:]}) > 1 or len({*mlp_ratios[1:]}) > 1):
        raise UserError(
            f"parallel_depth={parallel_depth} needs equal embed_dims and equal mlp_ratios in levels 2 to 4, got "
            f"{tuple(embed_dims)} and {tuple(mlp_ratios)}; write for example embed_dims=(152, 216, 216, 216) and "
            "mlp_ratios=(4, 4, 4, 4)."
        )
    return CoaTVariant(tuple(embed_dims), tuple(serial_depths), parallel_depth, tuple(mlp_ratios))


def _has_four(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and len(values) == len(LEVELS)
