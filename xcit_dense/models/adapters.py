"""Plain transformers of timm at any image size: one adapter for each way in which positions enter.

An adapter knows how a trunk turns images of any size into tokens, and how the weights of a file fit the trunk. Adapters
have no state, so a copy or a replica of a trunk needs no adapter of its own. Another kind of transformer is a new
subclass of :class:`Adapter`.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.models.blocks import tokens_to_map
from xcit_dense.models.relative_position import Grid, RelativePositionAttention, resize_table
from xcit_dense.models.talking_heads import TalkingHeadsAttention
from xcit_dense.ops.exporting import is_exporting

Run = Callable[..., Any]
"""Runs a block with inputs, and may recompute the block in the backward pass."""

TABLE = "relative_position_bias_table"


class Adapter(ABC):
    """What :class:`xcit_dense.TokenPyramid` asks about a trunk.

    A trunk has ``patch_embed``, ``blocks`` and ``embed_dim``, as in timm.
    """

    def options(self, patch_size: int) -> dict[str, Any]:
        """Returns arguments that the trunk needs in order to take any image size.

        Args:
            patch_size: Pixels of a token along each side.
        """
        return {}

    def prepare(self, trunk: Any, indices: Sequence[int]) -> None:
        """Changes a new trunk in place. Removes what has no effect on the outputs of some blocks.

        Args:
            trunk: The trunk.
            indices: The numbers of the blocks, ascending.
        """
        if hasattr(trunk, "prune_intermediate_layers"):
            trunk.prune_intermediate_layers(list(indices), prune_norm=True, prune_head=True)
        else:
            trunk.blocks = trunk.blocks[: indices[-1] + 1]

    @abstractmethod
    def forward(self, trunk: Any, images: Tensor, indices: Sequence[int], run: Run, recompute: bool) -> list[Tensor]:
        """Computes the outputs of some blocks.

        Args:
            trunk: The trunk.
            images: (B, in_channels, H, W).
            indices: The numbers of the blocks, ascending.
            run: Runs a block.
            recompute: Whether the backward pass shall recompute blocks. ``run`` takes care of this, too.

        Returns:
            A map (B, C, ceil(H / p), ceil(W / p)) for each number.
        """

    def fit(self, trunk: Any, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Fits the weights of a file to the sizes of a trunk.

        Args:
            trunk: The trunk.
            weights: Weights by the names of timm or of the authors, with all names of the file.

        Returns:
            The weights by the names of the trunk, with all names that the trunk does not have, and one clause for each
            change of values. By default nothing changes.
        """
        return weights, []


class DynamicAdapter(Adapter):
    """ViT, DeiT, DeiT3, DINO, DINOv2, DINOv3, EVA02 and SAM, which timm runs at any image size."""

    def __init__(self, is_sam: bool = False) -> None:
        self._is_sam = is_sam

    def options(self, patch_size: int) -> dict[str, Any]:
        """Returns timm's switches for any image size, and a patch size of 16 instead of 14."""
        options: dict[str, Any] = {} if self._is_sam else {"dynamic_img_size": True, "dynamic_img_pad": True}
        if patch_size == 14:
            options["patch_size"] = 16
        return options

    def prepare(self, trunk: Any, indices: Sequence[int]) -> None:
        """Lets SAM's patches cover images of any size, see :meth:`Adapter.prepare`."""
        super().prepare(trunk, indices)
        if self._is_sam:
            trunk.patch_embed.strict_img_size = False
            trunk.patch_embed.dynamic_img_pad = True

    def forward(self, trunk: Any, images: Tensor, indices: Sequence[int], run: Run, recompute: bool) -> list[Tensor]:
        """Computes the outputs of some blocks, see :meth:`Adapter.forward`."""
        trunk.set_grad_checkpointing(recompute)
        maps: list[Tensor] = trunk.forward_intermediates(images, list(indices), intermediates_only=True)
        return maps

    def fit(self, trunk: Any, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Fits weights by timm's own conversion, see :meth:`Adapter.fit`."""
        changes = []
        stem, own_stem = weights["patch_embed.proj.weight"], trunk.patch_embed.proj.weight
        if stem.shape[2:] != own_stem.shape[2:]:
            changes.append(f"patches of {_size(stem)} pixels resampled to {_size(own_stem)}")
        positions, own_positions = weights.get("pos_embed"), trunk.pos_embed
        if positions is not None and own_positions is not None and positions.shape[1:-1] != own_positions.shape[1:-1]:
            changes.append(f"{_count(positions)} positions resampled to {_count(own_positions)}")
        convert = sys.modules[type(trunk).__module__].checkpoint_filter_fn
        options = {"adapt_layer_scale": True} if isinstance(trunk, VisionTransformer) else {}
        return dict(convert(weights, trunk, **options)), changes


class CaitAdapter(Adapter):
    """CaiT: absolute positions, and attention whose heads exchange scores. Class attention takes no part."""

    def prepare(self, trunk: Any, indices: Sequence[int]) -> None:
        """Replaces the attention by one that computes large maps in parts, see :meth:`Adapter.prepare`."""
        super().prepare(trunk, indices)
        for block in trunk.blocks:
            block.attn = TalkingHeadsAttention(block.attn)

    def forward(self, trunk: Any, images: Tensor, indices: Sequence[int], run: Run, recompute: bool) -> list[Tensor]:
        """Computes the outputs of some blocks, see :meth:`Adapter.forward`."""
        tokens, size = _patches(trunk, images)
        positions = trunk.pos_embed
        if size != trunk.patch_embed.grid_size:
            positions = resample_abs_pos_embed(positions, size, trunk.patch_embed.grid_size, num_prefix_tokens=0)
        tokens = trunk.pos_drop(tokens + positions)
        maps = []
        for number, block in enumerate(trunk.blocks):
            tokens = run(block, tokens)
            if number in indices:
                maps.append(tokens_to_map(tokens, *size))
        return maps

    def fit(self, trunk: Any, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Resamples the positions to the grid of the trunk, see :meth:`Adapter.fit`."""
        positions = weights.get("pos_embed")
        if positions is None or positions.ndim != 3 or positions.shape == trunk.pos_embed.shape:
            return weights, []
        size = trunk.patch_embed.grid_size
        resampled = resample_abs_pos_embed(positions, size, num_prefix_tokens=0)
        change = f"{_count(positions)} positions resampled to {_count(trunk.pos_embed)}"
        return {**weights, "pos_embed": resampled}, [change]


class BeitAdapter(Adapter):
    """BEiT and BEiT v2: relative positions in a table, from which a bias is made for each image size."""

    def prepare(self, trunk: Any, indices: Sequence[int]) -> None:
        """Replaces the attention by one that takes any grid, see :meth:`Adapter.prepare`."""
        super().prepare(trunk, indices)
        for block in trunk.blocks:
            block.attn = RelativePositionAttention(block.attn)

    def forward(self, trunk: Any, images: Tensor, indices: Sequence[int], run: Run, recompute: bool) -> list[Tensor]:
        """Computes the outputs of some blocks, see :meth:`Adapter.forward`.

        Raises:
            UserError: The model is being exported.
        """
        if is_exporting():
            raise UserError(
                "BEiT cannot be exported: its table of relative positions is resized by the image's size, and a graph "
                "that takes all sizes cannot contain this step; export a model with another backbone."
            )
        tokens, size = _patches(trunk, images)
        tokens = torch.cat((trunk.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)  # (B, 1 + N, C)
        tokens = trunk.pos_drop(tokens)
        grid = Grid(size, tokens.device)
        maps = []
        for number, block in enumerate(trunk.blocks):
            tokens = run(block, tokens, grid)
            if number in indices:
                maps.append(tokens_to_map(tokens[:, 1:], *size))
        return maps

    def fit(self, trunk: Any, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Gives each block its table in the size of the trunk, see :meth:`Adapter.fit`."""
        fitted = {name: value for name, value in weights.items() if not name.endswith("relative_position_index")}
        changes = []
        shared = fitted.pop(f"rel_pos_bias.{TABLE}", None)
        if shared is not None:
            changes.append("the shared table of relative positions copied to each block")
            for number in range(_depth(fitted)):
                fitted.setdefault(f"blocks.{number}.attn.{TABLE}", shared)
        before: set[int] = set()
        window = trunk.blocks[0].attn.window
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) + 3
        for name, table in fitted.items():
            if not name.endswith(TABLE) or table.ndim != 2 or table.shape[0] == rows:
                continue
            side = math.isqrt(max(table.shape[0] - 3, 0))
            if side * side + 3 != table.shape[0] or side % 2 == 0:
                continue  # not a table of a square grid; loading refuses the shape
            grid = ((side + 1) // 2, (side + 1) // 2)
            fitted[name] = resize_table(table, grid, window)
            before.add(grid[0])
        for size in before:
            changes.append(
                f"tables of relative positions of {size} x {size} tokens resized to {window[0]} x {window[1]}"
            )
        return fitted, changes


_REFUSED = {
    "vision_transformer_relpos": "its relative positions belong to one image size",
    "convit": "its gates of positions belong to one image size",
    "tnt": "it has two streams of tokens, one of pixels and one of patches",
    "naflexvit": "it takes packed patches instead of images",
    "vision_transformer_hybrid": "a convolutional network makes its tokens",
    "vitamin": "a convolutional network makes its tokens",
    "xcit": "XCiT has a class of its own; write XCiT(...), or type='XCiT'",
    "coat": "CoaT has a class of its own; write CoaT(...), or type='CoaT'",
}


_ADAPTERS: dict[str, Adapter] = {
    "beit": BeitAdapter(),
    "cait": CaitAdapter(),
    "vision_transformer_sam": DynamicAdapter(is_sam=True),
    "vision_transformer": DynamicAdapter(),
    "deit": DynamicAdapter(),
    "eva": DynamicAdapter(),
}


def make_timm_trunk(variant: str | None, **options: Any) -> tuple[Any, Adapter]:
    """Builds a transformer of timm that takes any image size, and finds its adapter.

    Args:
        variant: timm's name of the model.
        **options: Arguments of timm's model.

    Raises:
        UserError: timm has no such model, or the model is not a plain transformer with patches of 8, 14 or 16 pixels.
            The message has the reason.
    """
    if variant is None:
        raise UserError(
            "TokenPyramid needs timm's name of a model; write variant='beit_base_patch16_224', for example."
        )
    if not timm.is_model(variant):
        raise UserError(did_you_mean("model of timm", variant, timm.list_models()))
    refused = f"TokenPyramid cannot take {variant!r}"
    module = timm.model_entrypoint(variant).__module__.rpartition(".")[2]
    if module in _REFUSED:
        raise UserError(f"{refused}: {_REFUSED[module]}.")
    if module not in _ADAPTERS:
        raise UserError(
            f"{refused}: it is not a plain transformer, which keeps one resolution of tokens; write a ViT, DeiT, DINO, "
            "EVA02, SAM, CaiT or BEiT of timm, for example 'vit_base_patch16_224'."
        )
    adapter = _ADAPTERS[module]
    with torch.device("meta"):  # one block without memory, for the patches
        thin: Any = timm.create_model(variant, num_classes=0, **{**options, "depth": 1})
    if not isinstance(getattr(thin.patch_embed, "proj", None), nn.Conv2d):
        raise UserError(f"{refused}: {_REFUSED['vision_transformer_hybrid']}.")
    patch_size = tuple(thin.patch_embed.patch_size)
    if patch_size not in ((8, 8), (14, 14), (16, 16)):
        raise UserError(
            f"{refused}: it has patches of {' x '.join(map(str, patch_size))} pixels, and the pyramid starts at 8 or "
            "16; write a model with patches of 8, 16 or 14 (resampled to 16)."
        )
    return timm.create_model(variant, num_classes=0, **{**options, **adapter.options(patch_size[0])}), adapter


def _patches(trunk: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Makes tokens of images whose sides round up to patches.

    Returns:
        Tokens (B, N, C) in row order, and the rows and columns of tokens.
    """
    conv = trunk.patch_embed.proj
    height, width = conv.kernel_size
    below, right = -images.shape[2] % height, -images.shape[3] % width
    x = conv(F.pad(images, (0, right, 0, below)))  # (B, C, rows, columns)
    return trunk.patch_embed.norm(x.flatten(2).transpose(1, 2)), (x.shape[2], x.shape[3])


def _depth(names: Iterable[str]) -> int:
    numbers = [int(name.split(".")[1]) for name in names if name.startswith("blocks.")]
    return max(numbers, default=-1) + 1


def _size(weight: Tensor) -> str:
    return " x ".join(map(str, weight.shape[2:]))


def _count(positions: Tensor) -> int:
    """The number of positions in (1, N, C) or, for SAM, in (1, h, w, C)."""
    return math.prod(positions.shape[1:-1])
