"""Fits the neck and the heads of a detector of MMDetection to an XCiT."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config, ConfigDict

from xcit_dense.errors import UserError
from xcit_dense.mm.config.swap.common import STRIDES, Levels, choose_levels, measure_levels
from xcit_dense.variants import VARIANTS


def adapt_detector(config: Config, model: ConfigDict, backbone: ConfigDict) -> None:
    """Puts an XCiT into a detector, and fits the neck or the heads to the XCiT.

    Args:
        config: The complete config.
        model: The model, which is changed.
        backbone: The config of the XCiT, without ``out_strides``.

    Raises:
        UserError: The old backbone returns levels that XCiT does not have, or no part of the model reads the levels.
    """
    old = measure_levels(config, model.backbone, backbone.get("in_channels", 3))
    _check_levels(model, old)
    width = VARIANTS[backbone.variant].embed_dim
    necks = model.get("neck")
    necks = list(necks) if isinstance(necks, list | tuple) else [necks] if necks else []
    if necks:
        _fit_neck(model, necks[0], old, width)
    else:
        _fit_heads(model, old, width)
    model.backbone = choose_levels(backbone, old.strides)


def _check_levels(model: Any, old: Levels) -> None:
    kind = model.backbone.get("type")
    if not set(old.strides) <= set(STRIDES) or list(old.strides) != sorted(set(old.strides)):
        raise UserError(
            f"The backbone {kind!r} of the config returns levels at strides {old.strides}. XCiT returns one level for "
            f"each stride, any of {STRIDES}; choose a config of the same head with a ResNet."
        )


def _fit_neck(model: Any, neck: Any, old: Levels, width: int) -> None:
    """Replaces the widths that a neck reads."""
    found = neck.get("in_channels")
    if found is None:
        raise UserError(
            f"The neck {neck.get('type')!r} of the config does not have in_channels; write in_channels in the neck."
        )
    neck.in_channels = _replace(found, width)
    passed = neck.get("out_channels")
    if isinstance(passed, list | tuple) and list(passed[: len(old.channels)]) == list(old.channels):
        # The neck of SSD passes the levels on to the head, and adds levels.
        neck.out_channels = type(passed)([*neck.in_channels, *passed[len(old.channels) :]])
        model.bbox_head.in_channels = neck.out_channels


def _replace(found: Any, width: int) -> Any:
    """Returns the new width of a level, or one for each level, in place of the old."""
    if isinstance(found, list | tuple):
        return type(found)([width] * len(found))
    return width


def _fit_heads(model: Any, old: Levels, width: int) -> None:
    """Replaces the widths that heads without a neck read: ``in_channels`` with one of the old widths."""
    heads: list[Any] = [part for key, part in model.items() if key.endswith("head") and isinstance(part, dict)]
    fitted = 0
    for head in heads:
        found = head.get("in_channels")
        listed = list(found) if isinstance(found, list | tuple) else [found]
        if found is not None and set(listed) <= set(old.channels):
            head.in_channels = _replace(found, width)
            fitted += 1
    if not fitted:
        raise UserError(
            "The config has neither a neck nor a head with in_channels of the old backbone; write in_channels in the "
            "head."
        )
