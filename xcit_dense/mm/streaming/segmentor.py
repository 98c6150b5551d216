"""Necks and decode heads of MMSegmentation as graphs of maps, which are computed window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xcit_dense.errors import UserError
from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.models.decode_heads import FPNHead, UPerHead
    from mmseg.models.decode_heads.psp_head import PPM
    from mmseg.models.necks import FPN
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.models.utils.wrappers import Upsample

from xcit_dense.mm.heads import FusedFPNHead, FusedUPerHead
from xcit_dense.mm.necks import VTFPN
from xcit_dense.mm.segmentors import FusedEncoderDecoder
from xcit_dense.mm.streaming.layers import convolve, describe, refuse
from xcit_dense.mm.streaming.vt_fpn import apply_vt_fpn
from xcit_dense.ops.layers import plain_type
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.bands import ONE_BAND, Bands
from xcit_dense.streaming.maps import Add, Apply, Concatenate, Enlarge, Level, Levels, Map, Pool, PooledMap

_TILE = 128  # positions along each side of the windows from which the pooling pyramid sums a level


def map_logits(model: Any, levels: Levels, height: int, width: int, bands: Bands = ONE_BAND) -> Map:
    """Makes the map of the logits of an image, in the size of the image.

    The map has the values of ``model.predict`` for the complete image, except for rounding. No level is read before
    the map is read.

    Args:
        model: An ``EncoderDecoder`` or ``FusedEncoderDecoder`` in evaluation mode, deployed or not: without a neck or
            with the neck ``FPN`` or ``VTFPN``, and with the head ``FPNHead``, ``FusedFPNHead``, ``UPerHead`` or
            ``FusedUPerHead``.
        levels: The levels of the model's backbone for the image.
        height: The height of the image in pixels.
        width: The width of the image in pixels.
        bands: The processes that share the image. By default, this process has the complete image.

    Returns:
        The map (1, classes, height, width). A model of two classes may have one logit.

    Raises:
        UserError: A part of the model cannot be computed by windows. The message names the part.
    """
    _check_segmentor(model)
    maps: list[Map] = [Level(levels, index) for index in range(len(levels.shapes))]
    if model.with_neck:
        is_vt_fpn = plain_type(model.neck) is VTFPN
        maps = apply_vt_fpn(model.neck, maps, bands) if is_vt_fpn else _apply_fpn(model.neck, maps)
    head = model.decode_head
    if plain_type(head) in (FPNHead, FusedFPNHead):
        features = _apply_fpn_head(head, _select(head, maps))
    else:
        features = _apply_uper_head(head, _select(head, maps), bands)
    logits = _classify(head, features)
    return Enlarge(logits, height, width, align_corners=head.align_corners)


def read_labels(model: Any, logits: Map, window: Window) -> Tensor:
    """Computes the labels of a window of an image, as ``model.predict`` does for the complete image.

    Args:
        model: The segmentor.
        logits: The map of :func:`map_logits`.
        window: The window, (h, w) pixels.

    Returns:
        (h, w), int64.
    """
    found = logits.read(window)  # (1, classes, h, w)
    if found.shape[1] > 1:
        return found[0].argmax(dim=0)  # the memory is channels-last, so that argmax reads it in order
    return (found[0, 0].sigmoid() > model.decode_head.threshold).long()


def _check_segmentor(model: Any) -> None:
    kind = plain_type(model)
    if kind not in (EncoderDecoder, FusedEncoderDecoder):
        what = "has a hook" if kind is None else f"is a {kind.__name__}, and not an EncoderDecoder"
        refuse("The model", what)
    mode = model.test_cfg.get("mode", "whole")
    if mode != "whole":
        raise UserError(
            f"model.test_cfg.mode is {mode!r}, and --stream computes the complete image; write --window 1024, or "
            "--cfg-options model.test_cfg.mode=whole."
        )
    prepare = model.data_preprocessor
    if plain_type(prepare) is not SegDataPreProcessor:
        refuse("model.data_preprocessor", f"is a {type(prepare).__name__}")
    if prepare.test_cfg:
        refuse("model.data_preprocessor", f"pads images in tests (test_cfg={dict(prepare.test_cfg)})")
    head = model.decode_head
    if plain_type(head) not in (FPNHead, FusedFPNHead, UPerHead, FusedUPerHead):
        refuse("model.decode_head", describe(head))
    if model.with_neck and plain_type(model.neck) not in (FPN, VTFPN):
        refuse("model.neck", describe(model.neck))


def _select(head: Any, maps: Sequence[Map]) -> list[Map]:
    if max(head.in_index) >= len(maps):
        refuse("model.decode_head", f"reads level {max(head.in_index)} of a neck with extra levels")
    return [maps[index] for index in head.in_index]


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


def _apply_fpn_head(head: Any, levels: Sequence[Map]) -> Map:
    """The features of ``FPNHead`` before the classification."""
    scaled: list[Map] = []
    for number, level in enumerate(levels):
        x = level
        for index, step in enumerate(head.scale_heads[number]):
            name = f"model.decode_head.scale_heads.{number}.{index}"
            if plain_type(step) is Upsample and not step.size and isinstance(step.scale_factor, float):
                height, width = int(x.height * step.scale_factor), int(x.width * step.scale_factor)
                x = Enlarge(x, height, width, step.mode, bool(step.align_corners))
            else:
                x = convolve(name, step, x)
        scaled.append(x)
    first, *others = scaled
    return Add(first, *(_enlarge_like(x, first, head) for x in others)) if others else first


def _apply_uper_head(head: Any, levels: Sequence[Map], bands: Bands) -> Map:
    """The features of ``UPerHead`` before the classification."""
    name = "model.decode_head"
    laterals = [convolve(f"{name}.lateral_convs.{i}", head.lateral_convs[i], x) for i, x in enumerate(levels[:-1])]
    laterals.append(_apply_pyramid(head, levels[-1], bands))
    for index in reversed(range(len(laterals) - 1)):
        fine = laterals[index]
        laterals[index] = Add(fine, _enlarge_like(laterals[index + 1], fine, head))
    outputs = [convolve(f"{name}.fpn_convs.{i}", head.fpn_convs[i], x) for i, x in enumerate(laterals[:-1])]
    outputs.append(laterals[-1])
    joined = Concatenate(outputs[0], *(_enlarge_like(x, outputs[0], head) for x in outputs[1:]))
    return convolve(f"{name}.fpn_bottleneck", head.fpn_bottleneck, joined)


def _apply_pyramid(head: Any, level: Map, bands: Bands) -> Map:
    """The pooling pyramid of ``UPerHead``, which sees the complete level."""
    name = "model.decode_head.psp_modules"
    pyramid = head.psp_modules
    if plain_type(pyramid) is not PPM:
        refuse(name, describe(pyramid))
    counts = []
    for index, (pooling, _) in enumerate(pyramid):
        if plain_type(pooling) is not nn.AdaptiveAvgPool2d or not isinstance(pooling.output_size, int):
            refuse(f"{name}.{index}.0", describe(pooling))
        counts.append(pooling.output_size)
    pool = Pool(level, counts, _TILE, bands)
    branches: list[Map] = [level]
    for index, (_, layer) in enumerate(pyramid):
        branch = convolve(f"{name}.{index}.1", layer, PooledMap(pool, index))
        branches.append(_enlarge_like(branch, level, head))
    return convolve("model.decode_head.bottleneck", head.bottleneck, Concatenate(*branches))


def _enlarge_like(x: Map, like: Map, head: Any) -> Map:
    return Enlarge(x, like.height, like.width, align_corners=head.align_corners)


def _classify(head: Any, features: Map) -> Map:
    layer = head.conv_seg
    if plain_type(layer) is not nn.Conv2d or layer.kernel_size != (1, 1) or layer.stride != (1, 1):
        refuse("model.decode_head.conv_seg", describe(layer))
    if head.dropout is not None and head.dropout.training:
        refuse("model.decode_head.dropout", "is in training mode")
    return Apply(features, layer, layer.out_channels)
