"""Registers necks for MMDetection and MMSegmentation: VT-FPN, and what some heads need between XCiT and themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from xcit_dense.mm.registration import check_arguments, register_model
from xcit_dense.models import vt_fpn


class VTFPN(vt_fpn.VTFPN, BaseModule):
    """:class:`xcit_dense.models.vt_fpn.VTFPN` with the argument ``init_cfg`` of MM modules.

    Args:
        *args: As for :class:`xcit_dense.models.vt_fpn.VTFPN`.
        init_cfg: The initialisation. By default the neck keeps its own initialisation.
        **kwargs: As for :class:`xcit_dense.models.vt_fpn.VTFPN`.

    Raises:
        UserError: As for :class:`xcit_dense.models.vt_fpn.VTFPN`, or an argument is unknown.
    """

    def __init__(self, *args: Any, init_cfg: Any = None, **kwargs: Any) -> None:
        check_arguments("VTFPN", vt_fpn.VTFPN, kwargs)
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg


class ContiguousLevels(BaseModule):
    """Copies each level to memory in the order of its dimensions.

    XCiT returns levels in channels-last memory, and convolutions keep this memory format. MMSegmentation's ``DMHead``
    calls ``view`` on a map, which fails in channels-last memory.

    Args:
        init_cfg: The initialisation. The neck does not have weights.

    Example:
        >>> import torch
        >>> level = torch.ones(2, 16, 4, 4).to(memory_format=torch.channels_last)
        >>> ContiguousLevels()([level])[0].is_contiguous()
        True
    """

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the same values in contiguous memory."""
        return tuple(level.contiguous() for level in levels)


class MeanTokens(BaseModule):
    """Adds a class token to each level: the mean of the level over all positions.

    MMSegmentation's ``DPTHead`` reads pairs of a map and a class token, as a ViT returns them. XCiT's levels do not
    contain the class token.

    Args:
        init_cfg: The initialisation. The neck does not have weights.

    Example:
        >>> import torch
        >>> pairs = MeanTokens()([torch.ones(2, 16, 4, 4)])
        >>> [(tuple(level.shape), tuple(token.shape)) for level, token in pairs]
        [((2, 16, 4, 4), (2, 16))]
    """

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Returns a pair of the map (B, C, H, W) and its class token (B, C) for each level."""
        return [(level, level.mean((2, 3))) for level in levels]


class TrainingBranches(BaseModule):
    """Makes several maps of the coarsest level in training, and one map in prediction.

    The heads of two-branch networks, MMSegmentation's ``PIDHead`` and ``DDRHead``, read the maps of all branches in
    training and only the map of the main branch in prediction. Each branch is a convolution of 1 x 1.

    Args:
        in_channels: The channels of the level.
        out_channels: The channels of each branch.
        main: The number of the main branch, counted from 0.
        init_cfg: The initialisation.

    Example:
        >>> import torch
        >>> neck = TrainingBranches(16, (8, 32), main=1)
        >>> [tuple(branch.shape) for branch in neck([torch.ones(2, 16, 4, 4)])]
        [(2, 8, 4, 4), (2, 32, 4, 4)]
        >>> neck.eval()([torch.ones(2, 16, 4, 4)]).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: Sequence[int], main: int, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.branches = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for channels in out_channels)
        self.main = main

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...] | Tensor:
        """Returns the maps of all branches in training, and the map of the main branch in prediction."""
        if self.training:
            return tuple(branch(levels[-1]) for branch in self.branches)
        main: Tensor = self.branches[self.main](levels[-1])
        return main


for neck in (VTFPN, ContiguousLevels, MeanTokens, TrainingBranches):
    register_model(neck)
