"""The interface that other libraries expect of a backbone: the names and conventions of timm's models and detectron2's.

The functions ask a :class:`xcit_dense.models.backbone.Backbone` and keep no state of their own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from timm.models import FeatureInfo
from torch import Tensor, nn

from xcit_dense.errors import UserError


class Shape(NamedTuple):
    """What a level looks like, with the fields of detectron2's ``ShapeSpec``.

    Attributes:
        channels: Channels of the level.
        height: None, because the height depends on the image.
        width: None, because the width depends on the image.
        stride: Stride of the level in pixels.
    """

    channels: int
    height: int | None
    width: int | None
    stride: int


class StandardInterface:
    """What timm, and libraries that take timm's models, ask a backbone.

    The index of a level is its place among the levels that the backbone returns, finest first.
    """

    out_channels: tuple[int, ...]
    out_strides: tuple[int, ...]
    with_cp: bool
    frozen_stages: int

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> tuple[Tensor, ...]: ...  # noqa: D102
        def list_blocks(self) -> Sequence[nn.Module]: ...  # noqa: D102
        def layer_of(self, name: str) -> int: ...  # noqa: D102

    @abstractmethod
    def level_modules(self) -> Sequence[str]:
        """Returns the name of the module that makes each level."""

    @property
    def num_features(self) -> int:
        """Channels of the last level."""
        return self.out_channels[-1]

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels, strides and modules of the levels, as an object of timm.

        Example:
            >>> from xcit_dense import XCiT
            >>> info = XCiT("nano_12_p16").feature_info
            >>> info.channels(), info.reduction(), info.module_name()
            ([128, 128, 128, 128], [4, 8, 16, 32], ['fpn1', 'fpn2', 'fpn3', 'fpn4'])
        """
        levels = []
        for channels, stride, module in zip(self.out_channels, self.out_strides, self.level_modules()):
            levels.append({"num_chs": channels, "reduction": stride, "module": module})
        return FeatureInfo(levels, tuple(range(len(levels))))

    def output_shape(self) -> dict[str, Shape]:
        """Returns the channels and the stride of each level by name: ``'p2'`` for stride 4, as in detectron2.

        Example:
            >>> from xcit_dense import XCiT
            >>> XCiT("nano_12_p16", out_strides=(8, 16)).output_shape()["p3"]
            Shape(channels=128, height=None, width=None, stride=8)
        """
        shapes = {}
        for channels, stride in zip(self.out_channels, self.out_strides):
            shapes[f"p{stride.bit_length() - 1}"] = Shape(channels, None, None, stride)
        return shapes

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Computes some of the levels, as timm's models do.

        Args:
            images: (B, in_channels, H, W), as for the call of the backbone.
            indices: The indices of the levels; negative numbers count from the end. A number takes the last levels.
                None takes all.
            norm: False, because the levels have no norm after them.
            stop_early: No effect. Build the backbone with ``out_strides`` to compute less.
            output_fmt: ``'NCHW'``.
            intermediates_only: Whether to return only the list.

        Returns:
            The last level (B, C, H', W') and the list of the chosen levels, or only the list.

        Raises:
            UserError: An index is out of range, or an option has another value.

        Example:
            >>> import torch
            >>> from xcit_dense import XCiT
            >>> last, levels = XCiT("nano_12_p16").forward_intermediates(torch.rand(1, 3, 32, 32), indices=[0, 2])
            >>> last.shape[2:], [level.shape[2] for level in levels]
            (torch.Size([1, 1]), [8, 2])
        """
        if norm:
            raise UserError("norm=True: the levels have no norm after them; leave norm out.")
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt={output_fmt!r}: the levels are maps (B, C, H, W); write 'NCHW'.")
        count = len(self.out_strides)
        if indices is None:
            indices = count
        chosen = list(range(-indices, 0)) if isinstance(indices, int) else list(indices)
        if not chosen or not all(-count <= index < count for index in chosen):
            raise UserError(
                f"indices={indices!r}: the backbone has {count} levels; write indices from 0 to {count - 1}, or a "
                f"number of levels up to {count}."
            )
        levels = self(images)
        intermediates = [levels[index] for index in chosen]
        return intermediates if intermediates_only else (levels[-1], intermediates)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switches the recomputation of blocks in the backward pass: the attribute ``with_cp``.

        Args:
            enable: Whether to recompute.
        """
        self.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Returns a function that gives the depth of a parameter, for timm's layer-wise learning rates.

        Args:
            coarse: Whether there are only three depths: the embedding, the blocks, and what follows the blocks.

        Example:
            >>> from timm.optim import create_optimizer_v2
            >>> from xcit_dense import XCiT
            >>> optimizer = create_optimizer_v2(XCiT("nano_12_p16"), "adamw", lr=1e-3, layer_decay=0.75)
            >>> len({group["lr_scale"] for group in optimizer.param_groups})
            14
        """
        last = len(self.list_blocks()) + 1
        if not coarse:
            return self.layer_of
        return lambda name: {0: 0, last: 2}.get(self.layer_of(name), 1)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters without weight decay that have more than one dimension.

        timm leaves out parameters of one dimension by itself. XCiT has no further ones.
        """
        return set()

    def freeze_stages(self, stages: int) -> None:
        """Freezes the embedding and some blocks, as the argument ``frozen_stages`` does.

        Args:
            stages: 0 for the embedding, n for the embedding and the first n blocks.

        Raises:
            UserError: The number is out of range.
        """
        self.frozen_stages = stages

    def unfreeze(self) -> None:
        """Ends the freezing: all parameters that freezing has stopped require gradients again."""
        self.frozen_stages = -1
