"""The form of XCiT that only infers: without what training alone needs."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xcit_dense.errors import UserError
from xcit_dense.models.xcit import XCiT

Model = TypeVar("Model", bound=nn.Module)
ENCODINGS = 4  # positional encodings of so many sizes are kept


@torch.no_grad()
def deploy(model: Model) -> Model:
    """Makes every XCiT in a model faster at inference, in place and for good; outputs stay what they are.

    Batch norms that follow a convolution go into its weights, and the positional encodings of the last four sizes are
    kept. Load the weights first, and keep the undeployed model for training and for saving: parameters are no longer
    those of a checkpoint.

    Args:
        model: A backbone, or what holds one: a detector, a segmentor. In evaluation mode.

    Returns:
        The same model.

    Raises:
        UserError: The model holds no XCiT, or is in training mode.
    """
    backbones = [module for module in model.modules() if isinstance(module, XCiT)]
    if not backbones:
        raise UserError(f"{type(model).__name__} holds no XCiT to deploy; give a model with an XCiT backbone.")
    if any(backbone.training for backbone in backbones):
        raise UserError("A model in training mode cannot be deployed; call model.eval() first.")
    for backbone in backbones:
        if not backbone.deployed:
            _deploy(backbone)
    return model


def _deploy(backbone: XCiT) -> None:
    for layers in [module for module in backbone.modules() if isinstance(module, nn.Sequential)]:
        _fold_batch_norms(layers)
    backbone.pos_embeder.keep = ENCODINGS
    backbone.requires_grad_(False)
    backbone.deployed = True


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for index in range(len(layers) - 1):
        conv, norm = layers[index], layers[index + 1]
        if not isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) or not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.running_mean is not None and not norm.training:
            layers[index] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            layers[index + 1] = nn.Identity()
