"""Necks and decode heads of MMSegmentation as graphs of maps, which are computed window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmseg.models.decode_heads import FCNHead, FPNHead, UPerHead
    from mmseg.models.decode_heads.psp_head import PPM
    from mmseg.models.necks import FPN
    from mmseg.models.utils.wrappers import Upsample

from xcit_dense.mm.heads import FusedFCNHead, FusedFPNHead, FusedUPerHead
from xcit_dense.mm.necks import VTFPN
from xcit_dense.mm.streaming.layers import SUMMED_TILE, convolve, describe, refuse
from xcit_dense.mm.streaming.vt_fpn import apply_vt_fpn
from xcit_dense.ops.layers import plain_type
from xcit_dense.streaming.bands import ONE_BAND, Bands
from xcit_dense.streaming.maps import Add, Apply, Concatenate, Enlarge, Level, Levels, Map, Pool, PooledMap


def map_levels(model: Any, levels: Levels, bands: Bands = ONE_BAND) -> list[Map]:
    """Makes the maps that the heads of a segmentor get.

    Args:
        model: A segmentor without a neck, or with the neck ``FPN`` or ``VTFPN``.
        levels: The levels of the model's backbone for the image.
        bands: The processes that share the image. By default, this process has the complete image.

    Raises:
        NeedsCompleteMapError: The neck cannot be computed by windows.
    """
    maps: list[Map] = [Level(levels, index) for index in range(len(levels.shapes))]
    if not model.with_neck:
        return maps
    if plain_type(model.neck) is VTFPN:
        return apply_vt_fpn(model.neck, maps, bands)
    if plain_type(model.neck) is not FPN:
        refuse("model.neck", describe(model.neck))
    return _apply_fpn(model.neck, maps)


def map_features(head: Any, maps: Sequence[Map], name: str, bands: Bands = ONE_BAND) -> Map:
    """Makes the map that a head classifies.

    A batch norm in training mode becomes a :class:`xcit_dense.streaming.maps.Normalise`.

    Args:
        head: ``FPNHead``, ``UPerHead`` or ``FCNHead``, fused or not.
        maps: The maps of :func:`map_levels`.
        name: The name of the head in the config.
        bands: As for :func:`map_levels`.

    Returns:
        The map (1, C, height, width).

    Raises:
        NeedsCompleteMapError: A part of the head cannot be computed by windows.
    """
    kind = plain_type(head)
    if kind in (FPNHead, FusedFPNHead):
        return _apply_fpn_head(head, _select(head, maps, name), name)
    if kind in (UPerHead, FusedUPerHead):
        return _apply_uper_head(head, _select(head, maps, name), name, bands)
    if kind not in (FCNHead, FusedFCNHead):
        refuse(name, describe(head))
    return _apply_fcn_head(head, _select(head, maps, name), name)


def classify(head: Any, features: Map, name: str) -> Map:
    """Makes the map of the logits of a head, without its dropout.

    Args:
        head: The head.
        features: The map of :func:`map_features`.
        name: The name of the head in the config.

    Returns:
        The map (1, classes, height, width).

    Raises:
        NeedsCompleteMapError: The classifying layer cannot be computed by windows.
    """
    layer = head.conv_seg
    if plain_type(layer) is not nn.Conv2d or layer.kernel_size != (1, 1) or layer.stride != (1, 1):
        refuse(f"{name}.conv_seg", describe(layer))
    return Apply(features, layer, layer.out_channels)


def _select(head: Any, maps: Sequence[Map], name: str) -> list[Map]:
    if head.input_transform == "resize_concat":
        refuse(name, "has input_transform='resize_concat'")
    indices = [head.in_index] if isinstance(head.in_index, int) else [*head.in_index]
    if max(indices) >= len(maps):
        refuse(name, f"reads level {max(indices)} of a neck with extra levels")
    return [maps[index] for index in indices]


def _apply_fpn(neck: Any, levels: Sequence[Map]) -> list[Map]:
    """The neck FPN without its extra levels."""
    options = dict(neck.upsample_cfg)
    if set(options) - {"mode", "align_corners"} or options.get("mode") not in ("nearest", "bilinear"):
        refuse("model.neck", f"has upsample_cfg={options}")
    mode, corners = options["mode"], bool(options.get("align_corners"))
    levels = levels[neck.start_level : neck.backbone_end_level]
    laterals = [convolve(f"model.neck.lateral_convs.{i}", neck.lateral_convs[i], x) for i, x in enumerate(levels)]
    for index in reversed(range(len(laterals) - 1)):
        fine = laterals[index]
        laterals[index] = Add(fine, Enlarge(laterals[index + 1], fine.height, fine.width, mode, corners))
    return [convolve(f"model.neck.fpn_convs.{i}", neck.fpn_convs[i], x) for i, x in enumerate(laterals)]


def _apply_fpn_head(head: Any, levels: Sequence[Map], name: str) -> Map:
    """The features of ``FPNHead`` before the classification."""
    scaled: list[Map] = []
    for number, level in enumerate(levels):
        x = level
        for index, step in enumerate(head.scale_heads[number]):
            if plain_type(step) is Upsample and not step.size and isinstance(step.scale_factor, float):
                height, width = int(x.height * step.scale_factor), int(x.width * step.scale_factor)
                x = Enlarge(x, height, width, step.mode, bool(step.align_corners))
            else:
                x = convolve(f"{name}.scale_heads.{number}.{index}", step, x)
        scaled.append(x)
    first, *others = scaled
    return Add(first, *(_enlarge_like(x, first, head) for x in others)) if others else first


def _apply_fcn_head(head: Any, levels: Sequence[Map], name: str) -> Map:
    """The features of ``FCNHead`` before the classification."""
    (level,) = levels
    x = level
    if head.num_convs:
        for index, layer in enumerate(head.convs):
            x = convolve(f"{name}.convs.{index}", layer, x)
    return convolve(f"{name}.conv_cat", head.conv_cat, Concatenate(level, x)) if head.concat_input else x


def _apply_uper_head(head: Any, levels: Sequence[Map], name: str, bands: Bands) -> Map:
    """The features of ``UPerHead`` before the classification."""
    laterals = [convolve(f"{name}.lateral_convs.{i}", head.lateral_convs[i], x) for i, x in enumerate(levels[:-1])]
    laterals.append(_apply_pyramid(head, levels[-1], name, bands))
    for index in reversed(range(len(laterals) - 1)):
        fine = laterals[index]
        laterals[index] = Add(fine, _enlarge_like(laterals[index + 1], fine, head))
    outputs = [convolve(f"{name}.fpn_convs.{i}", head.fpn_convs[i], x) for i, x in enumerate(laterals[:-1])]
    outputs.append(laterals[-1])
    joined = Concatenate(outputs[0], *(_enlarge_like(x, outputs[0], head) for x in outputs[1:]))
    return convolve(f"{name}.fpn_bottleneck", head.fpn_bottleneck, joined)


def _apply_pyramid(head: Any, level: Map, name: str, bands: Bands) -> Map:
    """The pooling pyramid of ``UPerHead``, which sees the complete level."""
    pyramid = head.psp_modules
    if plain_type(pyramid) is not PPM:
        refuse(f"{name}.psp_modules", describe(pyramid))
    counts = []
    for index, (pooling, _) in enumerate(pyramid):
        if plain_type(pooling) is not nn.AdaptiveAvgPool2d or not isinstance(pooling.output_size, int):
            refuse(f"{name}.psp_modules.{index}.0", describe(pooling))
        counts.append(pooling.output_size)
    pool = Pool(level, counts, SUMMED_TILE, bands)
    branches: list[Map] = [level]
    for index, (_, layer) in enumerate(pyramid):
        branch = convolve(f"{name}.psp_modules.{index}.1", layer, PooledMap(pool, index))
        branches.append(_enlarge_like(branch, level, head))
    return convolve(f"{name}.bottleneck", head.bottleneck, Concatenate(*branches))


def _enlarge_like(x: Map, like: Map, head: Any) -> Map:
    return Enlarge(x, like.height, like.width, align_corners=head.align_corners)
