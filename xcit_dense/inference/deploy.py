"""Prepares a backbone for inference: faster, and not trainable any more."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xcit_dense.errors import UserError
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.pyramid import Level
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.norms import SyncBatchNorm

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def deploy(model: Model) -> Model:
    """Makes the backbones of a model faster at inference. The model is changed in place, and its outputs stay the same.

    A batch norm after a convolution becomes part of the weights of the convolution. An XCiT keeps the positional
    encodings of the last four image sizes. Load the weights before this call. For training and for saving, keep a model
    that is not deployed: the parameters of a deployed model are not the parameters of a checkpoint any more.

    Layers with hooks or parametrizations, and layers of other types, are left as they are.

    Args:
        model: A backbone, or a model that contains a backbone: a detector, a segmentor. In evaluation mode.

    Returns:
        The same model.

    Raises:
        UserError: The model does not contain such a backbone, or is in training mode.

    Example:
        >>> import torch
        >>> from xcit_dense import XCiT, deploy
        >>> backbone = deploy(XCiT("nano_12_p16").eval())
        >>> with torch.inference_mode():
        ...     levels = backbone(torch.rand(1, 3, 64, 96))
        >>> backbone.deployed
        True
    """
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    if not backbones:
        raise UserError(
            f"{type(model).__name__} does not contain an XCiT, TokenPyramid or CoaT to deploy; give a model with one "
            "as its backbone."
        )
    if any(backbone.training for backbone in backbones):
        raise UserError("A model in training mode cannot be deployed; call model.eval() first.")
    for backbone in backbones:
        if not backbone.deployed:
            _deploy(backbone)
    return model


def _deploy(backbone: Backbone) -> None:
    for module in [*backbone.modules()]:
        if isinstance(module, nn.Sequential) and type(module) in (nn.Sequential, Level):
            _fold_batch_norms(module)
    backbone.prepare_inference()
    backbone.requires_grad_(False)
    backbone.deployed = True


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """Folds batch norms into the convolutions before them, where both are plain layers."""
    for index in range(len(layers) - 1):
        conv: Any = layers[index]
        norm: Any = layers[index + 1]
        if plain_type(conv) not in (nn.Conv2d, nn.ConvTranspose2d):
            continue
        if plain_type(norm) not in (nn.BatchNorm2d, SyncBatchNorm):
            continue
        if norm.running_mean is not None and not norm.training:
            layers[index] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            layers[index + 1] = nn.Identity()
