"""What the replacement of a backbone has in common for MMDetection and MMSegmentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import type_of
from xcit_dense.mm.config.libraries import import_library
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.models.backbone import choose_out_indices
from xcit_dense.utils.configs import shipped_configs
from xcit_dense.variants import get_variant
from xcit_dense.weights.zoo import expand

PROBE = 256
"""Pixels of the square image that measures strides, a multiple of every stride."""

_PATTERNS = {"mmdet": "mask_rcnn_xcit_{short}", "mmseg": "upernet_xcit_{short}"}
_RECIPE_IMAGES = 16  # images in a step of the published recipes

# Arguments that let a backbone download weights. A backbone is measured without weights.
_WEIGHTS: dict[str, Any] = {"init_cfg": None, "pretrained": None}


@dataclass(frozen=True)
class Levels:
    """What a backbone returns.

    Attributes:
        strides: Pixels of the image for each position of a map, one number for each map.
        channels: Channels of each map.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]


def import_modules(config: Config) -> None:
    """Imports the modules that a config names in ``custom_imports``.

    Modules of missing packages leave the list. mmpretrain, for example, is missing in many environments, and configs
    import mmpretrain for the old backbone.

    Args:
        config: A complete config, which is changed.

    Example:
        >>> config = Config({"custom_imports": {"imports": ["xcit_dense", "a_missing_package.models"]}})
        >>> import_modules(config)
        >>> config.custom_imports.imports
        ['xcit_dense']
    """
    wanted = config.get("custom_imports") or {}
    names = wanted.get("imports") or []
    names = [names] if isinstance(names, str) else names
    present = [name for name in names if find_spec(name.partition(".")[0]) is not None]
    if present:
        import_modules_from_strings(present, wanted.get("allow_failed_imports", False))
    if wanted:
        wanted["imports"] = present


def read_recipe(scope: str, variant: str) -> Config:
    """Reads the shipped config of a variant, which has the published settings of the backbone and the optimizer.

    Args:
        scope: ``'mmdet'`` or ``'mmseg'``.
        variant: A name in :data:`xcit_dense.VARIANTS`.

    Returns:
        The config of Mask R-CNN or UperNet.

    Raises:
        UserError: The variant does not exist. The message suggests the nearest name.
    """
    get_variant(variant)
    name = expand(_PATTERNS[scope], variant.removeprefix("xcit_"))
    return Config.fromfile(shipped_configs()[name])


def make_backbone(recipe: Config, weights: str | None, mean: Sequence[float]) -> ConfigDict:
    """Makes the config of an XCiT.

    Args:
        recipe: The config that :func:`read_recipe` returns.
        weights: The weights that a training starts from. None leaves the weights out, ``'auto'`` takes the published
            weights of the variant.
        mean: The mean of each channel of the images. Other than three channels become ``in_channels``.

    Returns:
        The config, without ``out_strides``.
    """
    backbone: ConfigDict = recipe.model.backbone.copy()
    if weights is None:
        backbone.pop("init_cfg", None)
    elif weights != "auto":
        backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=weights)
    if len(mean) not in (0, 3):
        backbone.in_channels = len(mean)
    return backbone


def choose_levels(backbone: ConfigDict, strides: Sequence[int]) -> ConfigDict:
    """Sets the levels that an XCiT returns. The coarsest level always comes from the last block.

    Args:
        backbone: The config that :func:`make_backbone` returns.
        strides: The strides of the levels, ascending, each in
            :data:`xcit_dense.models.pyramid.ALL_STRIDES`.

    Returns:
        A copy of the config with ``out_strides``, and with ``out_indices`` if the default blocks are not right.

    Example:
        >>> choose_levels(ConfigDict(type="XCiT", variant="nano_12_p16"), (8, 16))
        {'type': 'XCiT', 'variant': 'nano_12_p16', 'out_strides': [8, 16], 'out_indices': [5, 11]}
    """
    chosen: ConfigDict = backbone.copy()
    chosen.out_strides = list(strides)
    if strides[-1] < 32:
        variant = get_variant(backbone.variant)
        default = choose_out_indices(None, variant.depth, strides)
        chosen.out_indices = [*default[:-1], variant.depth - 1]
    return chosen


def measure_levels(config: Config, backbone: Any, channels: int = 3) -> Levels:
    """Measures what a backbone returns, by running the backbone on an image.

    The backbone is built without its weights, on PyTorch's device ``meta`` if the backbone's operators work there.

    Args:
        config: The complete config, whose ``default_scope`` is the library of the backbone.
        backbone: The config of the backbone.
        channels: The number of channels of the image.

    Returns:
        The strides and the channels of the maps.

    Raises:
        UserError: The backbone cannot be built or run, or it does not return maps.
    """
    import_library(config.default_scope, "models")
    if type_of(config, backbone, MODELS) is None:
        raise UserError(
            f"The backbone {backbone.get('type')!r} of the config is not registered; install the library that has it, "
            "or choose a config of the same head with a ResNet."
        )
    plain = ConfigDict({key: value for key, value in backbone.items() if key not in _WEIGHTS})
    if "pretrained" in backbone and backbone.pretrained is True:  # a backbone of timm
        plain.pretrained = False
    failure: Exception | None = None
    for device in ("meta", "cpu"):
        try:
            with MODELS.switch_scope_and_registry(config.default_scope) as registry, torch.device(device):
                built = registry.build(plain)
                built.eval()  # ResNet's own eval returns None
                for part in built.modules():
                    if getattr(part, "eps", None) == 0:  # PyTorch refuses a batch norm with eps=0
                        part.eps = 1e-5
                with torch.no_grad():
                    maps = built(torch.zeros(1, channels, PROBE, PROBE))
        except Exception as error:  # any operator may be missing on the device meta
            failure = error
        else:
            return _read_levels(backbone, maps)
    raise UserError(f"The backbone {backbone.get('type')!r} of the config cannot be measured: {failure}.") from failure


def _read_levels(backbone: Any, maps: Any) -> Levels:
    maps = [maps] if isinstance(maps, torch.Tensor) else list(maps) if isinstance(maps, tuple | list) else []
    if not maps or not all(isinstance(level, torch.Tensor) and level.ndim == 4 for level in maps):
        raise UserError(f"The backbone {backbone.get('type')!r} of the config does not return one map for each level.")
    # A side of a map can be off by one pixel, because some backbones do not pad.
    powers = [2**power for power in range(9)]
    strides = [min(powers, key=lambda power: abs(power - PROBE / level.shape[-1])) for level in maps]
    return Levels(tuple(strides), tuple(level.shape[1] for level in maps))


def replace_preprocessing(config: Config, recipe: Config) -> list[float]:
    """Normalises images as the published weights need it: RGB, with the mean and deviation of ImageNet.

    Images of other than three channels keep their numbers.

    Args:
        config: A complete config, which is changed.
        recipe: The config that :func:`read_recipe` returns.

    Returns:
        The mean of each channel.
    """
    wanted = recipe.model.data_preprocessor
    found = list(_preprocessors_in(config.model))
    if "data_preprocessor" in config:
        found += list(_preprocessors_in({"data_preprocessor": config.data_preprocessor}))
    means: list[float] = list(wanted.mean)
    for part in found:
        if len(part.get("mean") or wanted.mean) != len(wanted.mean):
            means = list(part.mean)
            continue
        part.pop("rgb_to_bgr", None)
        part.update(mean=list(wanted.mean), std=list(wanted.std), bgr_to_rgb=True)
    return means


def _preprocessors_in(node: Any) -> Iterator[Any]:
    """Iterates over the preprocessors that normalise images, also inside other preprocessors."""
    for part in dicts_in(node):
        own = part.get("data_preprocessor")
        if isinstance(own, dict):
            inner = own.get("data_preprocessor")
            yield inner if isinstance(inner, dict) else own


def replace_optimizer(config: Config, recipe: Config) -> None:
    """Sets the optimizer as XCiT needs it.

    SGD becomes AdamW with the published settings. The learning rate grows in proportion to the number of images in a
    step. Another optimizer keeps its settings. In both cases the layer norms of XCiT do not have weight decay, and
    rules for layers that only the old backbone has are removed.

    Args:
        config: A complete config, which is changed.
        recipe: The config that :func:`read_recipe` returns.
    """
    wrapper: Any = config.get("optim_wrapper")
    if wrapper is None or "optimizer" not in wrapper:
        return
    if wrapper.optimizer.get("type") == "SGD":
        _use_recipe(config, recipe)
        return
    if str(wrapper.get("constructor", "")).startswith(("LayerDecay", "LearningRateDecay")):
        wrapper.pop("constructor")
        wrapper.pop("paramwise_cfg", None)
    rules = wrapper.setdefault("paramwise_cfg", ConfigDict())
    keys = rules.setdefault("custom_keys", ConfigDict())
    for key in [key for key in keys if _is_of_old_backbone(key)]:
        keys.pop(key)
    own = keys.get("backbone")
    if own is None:
        keys.setdefault("norm", ConfigDict())["decay_mult"] = 0.0
        return
    # MMEngine applies the longest key that fits, so the norms need keys that are longer than "backbone".
    for block in range(get_variant(recipe.model.backbone.variant).depth):
        keys[f"backbone.blocks.{block}.norm"] = ConfigDict({**own, "decay_mult": 0.0})


def _use_recipe(config: Config, recipe: Config) -> None:
    """Replaces SGD by the published AdamW."""
    wrapper: Any = config.optim_wrapper
    images = config.get("auto_scale_lr", {}).get("base_batch_size", _RECIPE_IMAGES)
    optimizer: ConfigDict = recipe.optim_wrapper.optimizer.copy()
    optimizer.lr = float(f"{optimizer.lr * images / _RECIPE_IMAGES:.3g}")
    factor = optimizer.lr / wrapper.optimizer.lr
    for scheduler in _schedulers_in(config):
        if scheduler.get("eta_min"):  # a rate, not a factor
            scheduler.eta_min = float(f"{scheduler.eta_min * factor:.3g}")
    wrapper.optimizer = optimizer
    wrapper.paramwise_cfg = recipe.optim_wrapper.paramwise_cfg.copy()
    wrapper.pop("constructor", None)


def _schedulers_in(config: Config) -> list[Any]:
    schedulers = config.get("param_scheduler") or []
    return list(schedulers) if isinstance(schedulers, list | tuple) else [schedulers]


def _is_of_old_backbone(key: str) -> bool:
    """Whether a rule of the optimizer names layers of the old backbone: ``'backbone.layers'``, ``'pos_embed'``."""
    return re.match(r"backbone\.|absolute_pos_embed|relative_position|pos_block|pos_embed$", key) is not None
