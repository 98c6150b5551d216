"""Networks of MMSegmentation that have a backbone and branches of their own, and what an XCiT replaces in them."""

from __future__ import annotations

from typing import Any

from mmengine.config import ConfigDict

from xcit_dense.mm.config.swap.common import choose_levels
from xcit_dense.variants import VARIANTS

# Heads that read all branches in training and the main branch in prediction: the channels of each branch, as a share of
# the channels of the head.
_SHARES = {"PIDHead": (0.5, 1.0, 0.5), "DDRHead": (0.5, 1.0)}
_MAIN = 1


def make_branches(kind: str, head: Any, width: int) -> ConfigDict | None:
    """Makes the neck that gives a head the branches of PIDNet or DDRNet.

    Args:
        kind: The name of the head's class.
        head: The config of the head.
        width: The channels of the level that the neck reads.

    Returns:
        The config of the neck. None if the head does not read branches.

    Example:
        >>> make_branches("DDRHead", ConfigDict(in_channels=128), 384)
        {'type': 'TrainingBranches', 'in_channels': 384, 'out_channels': [64, 128], 'main': 1}
    """
    if kind not in _SHARES:
        return None
    channels = [round(head.in_channels * share) for share in _SHARES[kind]]
    return ConfigDict(type="TrainingBranches", in_channels=width, out_channels=channels, main=_MAIN)


def _fit_bisenet(outer: ConfigDict, backbone: ConfigDict) -> ConfigDict:
    """Puts an XCiT into the context path of BiSeNetV1.

    BiSeNetV1 adds the channels of its two paths, and expects the channels of the backbone's level of stride 16. So each
    path gets half of them.
    """
    width = VARIANTS[backbone.variant].embed_dim
    fitted: ConfigDict = outer.copy()
    fitted.backbone_cfg = choose_levels(backbone, (4, 8, 16, 32))
    fitted.context_channels = (width // 2, width, width)
    fitted.spatial_channels = (*outer.spatial_channels[:-1], width // 2)
    return fitted


def _fit_stdc(outer: ConfigDict, backbone: ConfigDict) -> ConfigDict:
    """Puts an XCiT into the context path of STDC."""
    width = VARIANTS[backbone.variant].embed_dim
    fitted: ConfigDict = outer.copy()
    fitted.backbone_cfg = choose_levels(backbone, (8, 16, 32))
    fitted.last_in_channels = (width, width)
    fitted.ffm_cfg = ConfigDict({**outer.ffm_cfg, "in_channels": width + outer.out_channels})
    return fitted


CONTEXT_PATHS = {"BiSeNetV1": _fit_bisenet, "STDCContextPathNet": _fit_stdc}
"""Backbones with a backbone inside, and the function that puts an XCiT there."""
