"""Prepares a model for inference: faster, and not trainable any more."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xcit_dense.errors import UserError
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.pyramid import Level
from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.norms import SyncBatchNorm
from xcit_dense.ops.winograd_conv import use_winograd

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def deploy(model: Model) -> Model:
    """Makes a model faster at inference. The model is changed in place, and its outputs stay the same.

    A batch norm after a convolution becomes part of the weights of the convolution: in the backbone, and in necks and
    heads of MMDetection and MMSegmentation. On the CPU, convolutions of 3 x 3 kernels multiply less
    (:class:`xcit_dense.ops.winograd_conv.WinogradConv2d`). An XCiT keeps the positional encodings of the last four
    image sizes. Load the weights before this call. For training and for saving, keep a model that is not deployed: the
    parameters of a deployed model are not the parameters of a checkpoint any more.

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
    modules: list[Any] = [*model.modules()]
    for module in modules:
        if type(module) in (nn.Sequential, Level):
            _fold_batch_norms(module, [*module._modules])
        elif _is_conv_module(module):
            names = {"conv": "conv", "norm": module.norm_name, "act": "activate"}
            _fold_batch_norms(module, [names[step] for step in module.order])
    for layer in use_winograd(model):
        layer.prepare_inference()
    for backbone in backbones:
        backbone.prepare_inference()
        backbone.deployed = True
    return model.requires_grad_(False)


def _is_conv_module(module: Any) -> bool:
    """Whether a module is a ``ConvModule`` of MMCV with a norm: a convolution, a norm and an activation."""
    # A model contains the type only if MMCV is imported. This package works without MMCV.
    mmcv = sys.modules.get("mmcv.cnn")
    return mmcv is not None and plain_type(module) is mmcv.ConvModule and bool(module.with_norm)


def _fold_batch_norms(parent: Any, names: list[str]) -> None:
    """Folds batch norms into the convolutions before them, where both are plain layers.

    Args:
        parent: A module that calls its layers one after the other.
        names: The names of the layers, in the order of the calls.
    """
    for first, second in pairwise(names):
        conv: Any = getattr(parent, first, None)
        norm: Any = getattr(parent, second, None)
        if conv is None or norm is None:
            continue
        if plain_type(conv) not in (nn.Conv2d, nn.ConvTranspose2d):
            continue
        if _is_batch_norm(norm) and norm.running_mean is not None and not norm.training:
            setattr(parent, first, fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d)))
            setattr(parent, second, nn.Identity())


def _is_batch_norm(norm: Any) -> bool:
    """Whether a plain layer is a batch norm of PyTorch, MMEngine or this package."""
    kind: Any = plain_type(norm)
    # The libraries have batch norms that differ only in the sizes that they allow.
    forwards = SyncBatchNorm.forward, nn.SyncBatchNorm.forward, nn.modules.batchnorm._BatchNorm.forward
    return kind is not None and kind.forward in forwards
