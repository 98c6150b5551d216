"""Puts an XCiT in the place of the backbone of any config of MMDetection or MMSegmentation."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config

from xcit_dense.errors import UserError
from xcit_dense.mm.config.swap.common import (
    import_modules,
    make_backbone,
    read_recipe,
    replace_optimizer,
    replace_preprocessing,
)
from xcit_dense.mm.config.swap.detection import adapt_detector
from xcit_dense.mm.config.swap.segmentation import adapt_segmentor
from xcit_dense.mm.config.walk import dicts_in

_ADAPT = {"mmdet": adapt_detector, "mmseg": adapt_segmentor}


def replace_backbone(config: Config, variant: str, weights: str | None = "auto") -> Config:
    """Puts an XCiT in the place of the backbone of a config of MMDetection or MMSegmentation.

    The neck and the heads get the widths of the XCiT, and the XCiT returns the levels that the old backbone returned.
    Images are normalised as the published weights need it. SGD becomes AdamW with the published settings.

    Args:
        config: A complete config. It does not change.
        variant: A name in :data:`xcit_dense.VARIANTS`.
        weights: The weights that the XCiT starts from: a file, an address or ``xcit://NAME``. ``'auto'`` takes the
            published weights of the variant, None leaves the weights out.

    Returns:
        A changed copy.

    Raises:
        UserError: The variant does not exist, or the model has no backbone, or a backbone that XCiT cannot replace.

    Example:
        >>> neck = {"type": "FPN", "in_channels": [64, 128, 256, 512], "out_channels": 256, "num_outs": 5}
        >>> model = {"type": "RetinaNet", "backbone": {"type": "ResNet", "depth": 18}, "neck": neck}
        >>> replaced = replace_backbone(Config({"default_scope": "mmdet", "model": model}), "small_12_p16")
        >>> replaced.model.neck.in_channels, replaced.model.backbone.out_strides
        ([384, 384, 384, 384], [4, 8, 16, 32])
    """
    scope = config.get("default_scope")
    if scope not in _ADAPT:
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")
    recipe = read_recipe(scope, variant)
    replaced: Config = deepcopy(config)
    import_modules(replaced)
    models = list(_models_in(replaced.get("model")))
    if not models:
        raise UserError("The config has no model with a backbone; choose a config that can be trained by itself.")
    mean = replace_preprocessing(replaced, recipe)
    backbone = make_backbone(recipe, weights, mean)
    for model in models:
        _ADAPT[scope](replaced, model, backbone)
        if model.get("pretrained"):
            model.pretrained = None  # weights of the old backbone
    for part in dicts_in(replaced.model):
        if part.get("type") == "MMSyncBN":
            part["type"] = "SyncBN"  # PyTorch's layer, which does not need a compiled operator
    replace_optimizer(replaced, recipe)
    if replaced.get("load_from"):
        replaced.load_from = None  # weights of the old model
    return replaced


def _models_in(node: Any) -> Iterator[Any]:
    """Iterates over the models with a backbone, also inside wrappers such as a tracker with a detector."""
    if isinstance(node, dict):
        if isinstance(node.get("backbone"), dict):
            yield node
            return
        for key, part in node.items():
            if key != "reid":  # the classifier of a tracker, which has no levels
                yield from _models_in(part)
    elif isinstance(node, list | tuple):
        for part in node:
            yield from _models_in(part)
