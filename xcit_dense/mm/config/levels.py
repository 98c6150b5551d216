"""Compares what neck and heads read with the levels that the backbone makes: numbers of levels, channels, strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import default_of, is_a
from xcit_dense.mm.config.walk import as_list
from xcit_dense.models.backbone import Backbone

# Heads that read the levels of the backbone if there is no neck.
_HEADS = ("decode_head", "auxiliary_head", "panoptic_head", "rpn_head", "bbox_head")
# Necks with an output for each level from `start_level` on, and further outputs that halve the size.
_PYRAMID_NECKS = ("FPN", "PAFPN", "VTFPN")


def check_levels(config: Config, backbone: Backbone) -> None:
    """Checks that neck and heads read levels that are there, with their channels and strides.

    Without this check, another number of levels or channels fails in the first step, and another stride trains in
    silence with anchors of wrong positions.

    Args:
        config: A complete config.
        backbone: The backbone of the config.

    Raises:
        UserError: A part reads a level that is not there, or has other channels or strides. The message says what to
            write.
    """
    model = config.model
    if not model.get("neck"):
        for name in _HEADS:
            for part in as_list(model.get(name)):
                _check_head(name, part, backbone)
        return
    # Only the first neck reads the levels of the backbone.
    necks = as_list(model.neck)
    _check_neck(necks[0], backbone)
    is_pyramid = any(is_a(config, necks[0], name, MODELS) for name in _PYRAMID_NECKS)
    if is_pyramid and len(necks) == 1:
        _check_strides(config, model, _strides_of_neck(config, necks[0], backbone))


def _check_neck(neck: Any, backbone: Backbone) -> None:
    given = neck.get("in_channels") if isinstance(neck, dict) else None
    if given is None:
        return
    widths = list(backbone.out_channels)
    given = given if isinstance(given, int) else list(given)
    _compare_widths("neck", given, widths[-1] if isinstance(given, int) else widths, backbone)


def _check_head(name: str, head: Any, backbone: Backbone) -> None:
    given = head.get("in_channels") if isinstance(head, dict) else None
    if given is None:
        return
    widths = list(backbone.out_channels)
    chosen = head.get("in_index")
    for index in as_list(chosen):
        if isinstance(index, int) and not -len(widths) <= index < len(widths):
            raise UserError(
                f"model.{name}.in_index is {chosen}, but {_describe(backbone)}; write an index up to "
                f"{len(widths) - 1}, or more strides in model.backbone.out_strides."
            )
    given = given if isinstance(given, int) else list(given)
    if isinstance(given, int):
        needed: Any = widths[chosen if isinstance(chosen, int) else -1]
        if name in ("rpn_head", "bbox_head") and len({*widths}) > 1:
            return  # the detector chooses the level
    elif isinstance(chosen, list | tuple):
        needed = [widths[index] for index in chosen]
    elif name == "panoptic_head":
        needed = widths
    else:
        needed = [widths[0]] * len(given) if len({*widths}) == 1 else widths
    _compare_widths(name, given, needed, backbone)
    strides = head.get("strides")
    if name == "panoptic_head" and strides is not None and tuple(strides) != backbone.out_strides:
        raise UserError(
            f"model.{name}.strides is {list(strides)}, but {_describe(backbone)}; write "
            f"model.{name}.strides={list(backbone.out_strides)}, or model.backbone.out_strides={tuple(strides)}."
        )


def _compare_widths(name: str, given: Any, needed: Any, backbone: Backbone) -> None:
    if given == needed:
        return
    count = len(backbone.out_strides)
    remedy = f"write model.{name}.in_channels={needed}"
    if isinstance(given, list) and len(given) != len(needed):
        remedy += f", or model.backbone.out_strides with {len(given)} strides"
    if isinstance(given, list) and name in ("neck", "panoptic_head") and len(given) != count:
        each = _describe(backbone)
    elif len({*backbone.out_channels}) == 1:
        each = f"each level of this {backbone.kind} has {backbone.out_channels[0]} channels"
    else:
        each = f"the levels of this {backbone.kind} have {', '.join(map(str, backbone.out_channels))} channels"
    raise UserError(f"model.{name}.in_channels is {given}, but {each}; {remedy}.")


def _strides_of_neck(config: Config, neck: Any, backbone: Backbone) -> list[int]:
    """Returns the strides of the outputs of a pyramid neck."""
    strides = list(backbone.out_strides)
    first = default_of(config, neck, "start_level", MODELS) or 0
    last = default_of(config, neck, "end_level", MODELS)
    used = strides[first:] if last in (None, -1) else strides[first : last + 1]
    if not used:
        raise UserError(
            f"model.neck.start_level is {first}, but {_describe(backbone)}; write "
            f"model.neck.start_level={len(strides) - 1} or less, or more strides in model.backbone.out_strides."
        )
    count = default_of(config, neck, "num_outs", MODELS)
    while isinstance(count, int) and len(used) < count:
        used.append(2 * used[-1])
    return used


def _check_strides(config: Config, model: Any, strides: Sequence[int]) -> None:
    """Checks the strides that heads behind a pyramid neck assume."""
    for name in ("rpn_head", "bbox_head"):
        head = model.get(name)
        if not isinstance(head, dict):
            continue
        for key in ("anchor_generator.strides", "prior_generator.strides", "strides"):
            _compare_strides(f"{name}.{key}", _look_up(head, key), strides, exact=True)
    roi_head = model.get("roi_head")
    for name in ("bbox_roi_extractor", "mask_roi_extractor"):
        for part in as_list((roi_head or {}).get(name)) if isinstance(roi_head, dict) else []:
            if isinstance(part, dict):
                given = part.get("featmap_strides")
                _compare_strides(f"roi_head.{name}.featmap_strides", given, strides, exact=False)


def _compare_strides(name: str, given: Any, strides: Sequence[int], exact: bool) -> None:
    """Raises an error if given strides differ from those of the neck's outputs, or from as many of them.

    Args:
        name: The name of the strides in the model.
        given: Strides, or pairs (width, height) of strides. Other values are passed over.
        strides: The strides of the neck's outputs.
        exact: Whether each output needs a stride.
    """
    if not isinstance(given, list | tuple):
        return
    squares = [value[0] if isinstance(value, list | tuple) and len({*value}) == 1 else value for value in given]
    needed = list(strides) if exact else list(strides[: len(squares)])
    if squares == needed or not all(isinstance(value, int) for value in squares):
        return
    raise UserError(
        f"model.{name} is {squares}, but the outputs of model.neck have the strides {', '.join(map(str, strides))}; "
        f"write model.{name}={needed}, or change model.backbone.out_strides, model.neck.start_level or "
        "model.neck.num_outs."
    )


def _look_up(head: Any, key: str) -> Any:
    for part in key.split("."):
        head = head.get(part) if isinstance(head, dict) else None
    return head


def _describe(backbone: Backbone) -> str:
    """Describes the levels in words: ``'this XCiT has levels at the strides 8, 16, of 384 channels'``."""
    strides = ", ".join(map(str, backbone.out_strides))
    widths = ", ".join(map(str, dict.fromkeys(backbone.out_channels)))
    if len(backbone.out_strides) == 1:
        return f"this {backbone.kind} has one level, at stride {strides}, of {widths} channels"
    return (
        f"this {backbone.kind} has {len(backbone.out_strides)} levels, at the strides {strides}, of {widths} channels"
    )
