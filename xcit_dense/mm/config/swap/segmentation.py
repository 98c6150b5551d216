"""Fits the neck and the heads of a segmentor of MMSegmentation to an XCiT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import type_of
from xcit_dense.mm.config.swap.branches import CONTEXT_PATHS, make_branches
from xcit_dense.mm.config.swap.common import PROBE, choose_levels, measure_levels
from xcit_dense.mm.config.walk import as_list
from xcit_dense.models.pyramid import ALL_STRIDES, STRIDES
from xcit_dense.variants import VARIANTS

_UP_TO_16 = STRIDES[:3]

# Backbones of other libraries cannot be measured where the library is missing. They return the pyramid, except these.
_OTHER_STRIDES = {"VPD": (8, 16, 32, 64)}

# Necks that make a pyramid of maps of one stride, and their argument with the factor of each level.
_PYRAMID_NECKS = {"MultiLevelNeck": "scales", "Feature2Pyramid": "rescales"}

# Necks and heads that read several maps and need them in one size.
_ONE_SIZE = ("MLANeck", "SETRMLAHead", "SETRUPHead", "DPTHead")

# Heads that read more than maps, or maps in another memory format, and the neck that makes what they read.
_LAST_NECKS = {"DPTHead": "MeanTokens", "DMHead": "ContiguousLevels"}


def adapt_segmentor(config: Config, model: ConfigDict, backbone: ConfigDict) -> None:
    """Puts an XCiT into a segmentor, and fits the neck and the heads to the XCiT.

    A level of a dilated backbone has the stride of the level before it. XCiT has one level for each stride: the last
    dilated level becomes the level of stride 16 from the last block. The main head always reads the last block.

    BiSeNetV1 and STDC keep their own branches, and the XCiT replaces the backbone inside. The branches of PIDNet and
    DDRNet become convolutions of the level of XCiT.

    Args:
        config: The complete config.
        model: The model, which is changed. Its ``backbone`` is the old one.
        backbone: The config of the XCiT, without ``out_strides``.

    Raises:
        UserError: The old backbone cannot be measured, or a head reads levels that XCiT does not have.
    """
    kind = _name(config, model.backbone)
    in_channels = backbone.get("in_channels", 3)
    if kind in CONTEXT_PATHS:
        model.backbone = CONTEXT_PATHS[kind](model.backbone, backbone)
        channels = measure_levels(config, model.backbone, in_channels).channels
        _fit_heads(model, channels, _same_positions(len(channels)))
        return
    width = VARIANTS[backbone.variant].embed_dim
    old = _find_strides(config, model, kind, in_channels)
    old = _remove_pyramid_neck(config, model, old)
    branches = [make_branches(_name(config, head), head, width) for head in _main_heads_in(model)]
    if branches[0]:
        model.backbone = choose_levels(backbone, old)
        model.neck = branches[0]
        return
    has_neck = bool(model.get("neck"))
    read = list(range(len(old))) if has_neck else sorted(_indices(_heads_in(model), len(old)))
    wanted = dict(zip(read, _choose_strides(old, read)))
    strides = sorted(set(wanted.values()))
    main = read if has_neck else _indices(_main_heads_in(model), len(old))
    model.backbone = _choose_levels(backbone, strides, max(wanted[index] for index in main))
    channels = (width,) * len(strides)
    necks = _resize(config, model, [old[index] for index in read], strides, width)
    if has_neck:
        _fit_neck(model.neck, list(wanted.values()), width)
        necks.append(model.neck)
        channels = _measure_necks(config, necks, channels, strides)
        positions = _same_positions(len(channels))
    else:
        _fit_strides(config, model, old, wanted)
        positions = {index: strides.index(stride) for index, stride in wanted.items()}
        positions |= {index - len(old): position for index, position in positions.items()}
    _fit_heads(model, channels, positions)
    necks += [ConfigDict(type=_LAST_NECKS[kind]) for kind in _kinds(config, model) if kind in _LAST_NECKS]
    if necks:
        model.neck = necks if len(necks) > 1 else necks[0]


def _name(config: Config, node: Any) -> str:
    """Returns the name of the class of a part of a config, also if the class is not registered."""
    kind = type_of(config, node, MODELS)
    return getattr(kind, "__name__", None) or str(node.get("type")).rpartition(".")[2]


def _kinds(config: Config, model: Any) -> set[str]:
    """Returns the names of the classes of the neck and the heads of a model."""
    return {_name(config, part) for part in (model.get("neck"), *_heads_in(model)) if isinstance(part, dict)}


def _find_strides(config: Config, model: Any, kind: str, in_channels: int) -> tuple[int, ...]:
    """Returns the stride of each level of the old backbone."""
    if kind in _OTHER_STRIDES or type_of(config, model.backbone, MODELS) is None:
        strides = _OTHER_STRIDES.get(kind, STRIDES)
        parts = [part for part in (model.get("neck"), *_heads_in(model)) if part]
        if len(strides) in [len(_reads(part)) for part in parts]:
            return strides
    backbone: ConfigDict = model.backbone.copy()
    backbone.pop("output_cls_token", None)  # DPT reads a pair for each level
    if "img_size" in backbone:
        backbone.img_size = (PROBE, PROBE)  # BEiT and MAE accept only this size
    return measure_levels(config, backbone, in_channels).strides


def _remove_pyramid_neck(config: Config, model: Any, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Removes a neck that makes a pyramid of maps of one stride, because XCiT has a pyramid.

    Returns:
        The strides that the heads read.
    """
    neck = model.get("neck")
    factors = neck.get(_PYRAMID_NECKS.get(_name(config, neck), "")) if isinstance(neck, dict) else None
    if factors is None or len(set(strides)) > 1:
        return strides
    model.neck = None
    return tuple(round(strides[0] / factor) for factor in factors)


def _choose_strides(old: Sequence[int], read: Sequence[int]) -> Sequence[int]:
    """Chooses the stride of XCiT for each level that is read.

    Example:
        >>> _choose_strides((4, 8, 8, 8), (2, 3)), _choose_strides((4, 8, 8, 8), (0, 2, 3))
        ((8, 16), (4, 8, 16))
        >>> _choose_strides((16, 16, 16, 16), (0, 1, 2, 3)), _choose_strides((16, 8, 4, 2, 1), (3, 4))
        ((4, 8, 16, 32), (4, 4))
    """
    is_repeated = any(index > 0 and old[index] == old[index - 1] for index in read)
    if not is_repeated:
        return tuple(min(max(old[index], ALL_STRIDES[0]), ALL_STRIDES[-1]) for index in read)
    if len(read) > len(STRIDES):
        raise UserError(
            f"The heads of the config read {len(read)} levels at strides {tuple(old)}. XCiT returns one level for each "
            f"stride, any of {ALL_STRIDES}; choose a config of the same head with a ResNet."
        )
    return STRIDES if len(read) == len(STRIDES) else _UP_TO_16[-len(read) :]


def _choose_levels(backbone: ConfigDict, strides: Sequence[int], main: int) -> ConfigDict:
    """Sets the levels of an XCiT. The level of the main head comes from the last block, and so do coarser levels."""
    finer = [stride for stride in strides if stride <= main]
    coarser = [stride for stride in strides if stride > main]
    chosen = choose_levels(backbone, finer)
    if coarser:
        chosen.out_strides = [*finer, *coarser]
        chosen.out_indices = [*chosen.out_indices, *([chosen.out_indices[-1]] * len(coarser))]
    return chosen


def _resize(config: Config, model: Any, old: Sequence[int], new: Sequence[int], width: int) -> list[ConfigDict]:
    """Returns a neck that brings all levels to the stride of the old levels, if a part of the model needs one size."""
    if len(new) == 1 or len(set(old)) > 1 or not _kinds(config, model) & set(_ONE_SIZE):
        return []
    scales = [stride / old[0] for stride in new]
    return [ConfigDict(type="MultiLevelNeck", in_channels=[width] * len(new), out_channels=width, scales=scales)]


def _fit_neck(neck: Any, strides: Sequence[int], width: int) -> None:
    """Replaces the widths that a neck reads."""
    found = neck.get("in_channels") if isinstance(neck, dict) else None
    if not isinstance(found, list | tuple) or len(found) != len(strides):
        raise UserError(
            f"The neck of the config has in_channels={found!r}, but the backbone returns {len(strides)} levels; write "
            "one number for each level."
        )
    if list(strides) != sorted(set(strides)):
        raise UserError(
            f"The neck of the config reads levels at strides {tuple(strides)}. XCiT returns one level for each stride; "
            "choose a config of the same neck with a ResNet."
        )
    neck.in_channels = type(found)([width] * len(found))


def _measure_necks(
    config: Config, necks: list[Any], channels: Sequence[int], strides: Sequence[int]
) -> tuple[int, ...]:
    """Returns the channels of each map that the last of some necks returns."""
    sizes = [(1, count, PROBE // stride, PROBE // stride) for count, stride in zip(channels, strides)]
    with MODELS.switch_scope_and_registry(config.default_scope) as registry, torch.device("meta"), torch.no_grad():
        maps = tuple(torch.zeros(size) for size in sizes)
        for neck in necks:
            maps = registry.build(neck).eval()(maps)
    return tuple(level.shape[1] for level in maps)


def _heads_in(model: Any) -> Iterator[Any]:
    """Iterates over the heads that read levels."""
    yield from _main_heads_in(model)
    yield from as_list(model.get("auxiliary_head"))


def _main_heads_in(model: Any) -> Iterator[Any]:
    for head in as_list(model.get("decode_head")):
        yield head.get("kernel_generate_head", head)  # K-Net refines what another head predicts


def _reads(part: Any) -> list[int]:
    """Returns the numbers of the levels that a head or a neck reads. -1 is the last level."""
    index = part.get("in_index")
    if index is None:
        found = part.get("in_channels")
        return list(range(len(found))) if isinstance(found, list | tuple) else [-1]
    return list(index) if isinstance(index, list | tuple) else [index]


def _indices(heads: Iterator[Any], count: int) -> set[int]:
    """Returns the numbers of the levels that heads read, of a number of levels."""
    found: set[int] = set()
    for head in heads:
        found |= {index % count for index in _reads(head)}
        if head.get("c1_in_channels"):  # the head of DeepLabV3+
            found.add(0)
    return found


def _same_positions(count: int) -> dict[int, int]:
    """Returns the place of each level, also counted from the end, where the levels keep their places."""
    return {index: index % count for index in range(-count, count)}


def _fit_heads(model: Any, channels: Sequence[int], positions: Mapping[int, int]) -> None:
    """Replaces the levels and the widths that heads read.

    Args:
        model: The model, which is changed.
        channels: The channels of each new level.
        positions: The number of the new level for the number of each old level.
    """
    for head in _heads_in(model):
        read = [positions[index] for index in _reads(head)]
        widths = [channels[index] for index in read]
        if head.get("num_convs") == 0 and head.channels == head.in_channels:
            head.channels = widths[0]  # the head passes the level on to its classifier
        if "post_process_channels" in head:  # DPT
            head.embed_dims = widths[0]
        if head.get("c1_in_channels"):
            head.c1_in_channels = channels[0]
        if isinstance(head.in_channels, list | tuple):
            head.in_channels = type(head.in_channels)(widths)
            if "in_index" in head:
                head.in_index = type(head.in_index)(read)
        else:
            head.in_channels = widths[0]
            head.in_index = read[0]


def _fit_strides(config: Config, model: Any, old: Sequence[int], wanted: Mapping[int, int]) -> None:
    """Replaces what heads without a neck assume about the strides of their levels."""
    for head in _heads_in(model):
        indices = [index % len(old) for index in _reads(head)]
        if "feature_strides" in head:
            head.feature_strides = [wanted[index] for index in indices]
        if _name(config, head) == "PSAHead":  # the attention reaches over the same part of the image
            factor = old[indices[0]] / wanted[indices[0]]
            head.mask_size = tuple(int(side * factor) // 2 * 2 + 1 for side in head.mask_size)
        if head.get("fmap_border"):  # of the depth head of VPD
            raise UserError(
                "The head of the config removes a border from its maps that VPD has added, but XCiT does not add a "
                "border; choose vpd_sd_4xb8-25k_nyu-512x512, and images whose sides are multiples of 64."
            )
