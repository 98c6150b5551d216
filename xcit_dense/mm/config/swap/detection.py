"""Fits the neck and the heads of a detector of MMDetection to an XCiT."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import type_of
from xcit_dense.mm.config.libraries import import_library
from xcit_dense.mm.config.swap.common import Levels, choose_levels, measure_levels
from xcit_dense.models.pyramid import ALL_STRIDES, STRIDES
from xcit_dense.variants import get_variant


def adapt_detector(config: Config, model: ConfigDict, backbone: ConfigDict) -> None:
    """Puts an XCiT into a detector, and fits the neck or the heads to the XCiT.

    Args:
        config: The complete config.
        model: The model, which is changed.
        backbone: The config of the XCiT, without ``out_strides``.

    Raises:
        UserError: The old backbone returns levels that XCiT does not have, or no part of the model reads the levels.
    """
    width = get_variant(backbone.variant).embed_dim
    necks = model.get("neck")
    necks = list(necks) if isinstance(necks, list | tuple) else [necks] if necks else []
    old = _find_levels(config, model, necks, backbone.get("in_channels", 3))
    if necks:
        _fit_neck(model, necks[0], old, width)
    elif "shared_head" in (model.get("roi_head") or {}):
        # The last stage of a ResNet reads RoIs of a fixed width.
        model.neck = ConfigDict(
            type="ChannelMapper", in_channels=[width], kernel_size=1, out_channels=old.channels[-1], num_outs=1
        )
    else:
        _fit_heads(model, old, width)
    model.backbone = choose_levels(backbone, old.strides)


def _find_levels(config: Config, model: Any, necks: list[Any], channels: int) -> Levels:
    """Finds the levels of the old backbone.

    A backbone of a missing library cannot be measured. It returns as many levels as its neck reads, the last at stride
    32.

    Raises:
        UserError: The old backbone returns maps that XCiT does not have.
    """
    widths = necks[0].get("in_channels") if necks else None
    import_library("mmdet", "models")
    is_missing = type_of(config, model.backbone, MODELS) is None
    if is_missing and isinstance(widths, list | tuple) and len(widths) <= len(STRIDES):
        return Levels(STRIDES[-len(widths) :], tuple(widths))
    found = _join_stacks(model, measure_levels(config, model.backbone, channels))
    _check_levels(model, found)
    if isinstance(widths, list | tuple) and len(widths) < len(found.channels):
        # Some necks pass over the first maps.
        return Levels(found.strides[-len(widths) :], found.channels[-len(widths) :])
    return found


def _join_stacks(model: Any, old: Levels) -> Levels:
    """Replaces the maps of several stacked backbones by one. CornerNet trains on the map of each of its hourglasses."""
    head: Any = model.get("bbox_head") or ConfigDict()
    if len(set(old.strides)) > 1 or "num_feat_levels" not in head:
        return old
    head.num_feat_levels = 1
    return Levels(old.strides[:1], old.channels[:1])


def _check_levels(model: Any, old: Levels) -> None:
    kind = model.backbone.get("type")
    if not set(old.strides) <= set(ALL_STRIDES) or list(old.strides) != sorted(set(old.strides)):
        raise UserError(
            f"The backbone {kind!r} of the config returns maps at strides {old.strides}. XCiT returns one level for "
            f"each stride, any of {ALL_STRIDES}; choose a config of the same head with a ResNet."
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
