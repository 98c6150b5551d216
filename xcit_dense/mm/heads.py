"""Heads of MMSegmentation that need less time and memory, with the same parameters and results.

MMSegmentation imports this module when it looks up its first model. Detectors do not need MMSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmcv.cnn import ConvModule
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead
    from mmseg.models.decode_heads.fcn_head import FCNHead
    from mmseg.models.decode_heads.fpn_head import FPNHead
    from mmseg.models.decode_heads.psp_head import PPM
    from mmseg.models.decode_heads.segformer_head import SegformerHead
    from mmseg.models.decode_heads.uper_head import UPerHead
    from mmseg.models.losses import CrossEntropyLoss
    from mmseg.registry import MODELS

from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.upsampled_conv import convolve_upsampled
from xcit_dense.ops.upsampled_loss import upsampled_cross_entropy
from xcit_dense.ops.winograd_conv import WinogradConv2d


class _LossInStrips(BaseDecodeHead):
    """A head whose loss never has the logits of all pixels in memory.

    These logits and their gradients are the largest part of the memory of a training step. A head with a sampler of
    pixels, or with another loss than the mean cross entropy without weights of classes, does what the head of the
    library does.
    """

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Computes the losses and the accuracy of the pixels.

        Args:
            seg_logits: Logits (B, classes, h, w).
            batch_data_samples: The ground truth of each image.

        Returns:
            The losses by their names, and the accuracy in percent as ``acc_seg``.
        """
        several = isinstance(self.loss_decode, nn.ModuleList)
        losses: list[Any] = [*self.loss_decode] if several else [self.loss_decode]
        if self.sampler is not None or not all(_is_mean_cross_entropy(loss) for loss in losses):
            return super().loss_by_feat(seg_logits, batch_data_samples)
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)  # (B, 1, H, W) -> (B, H, W)
        total, correct = upsampled_cross_entropy(seg_logits, labels, self.ignore_index, self.align_corners)
        counted = (labels != self.ignore_index).sum()
        tiny = torch.finfo(torch.float32).eps  # as in the library: a batch without labels has the loss 0
        found: dict[str, Tensor] = {}
        for loss in losses:
            pixels = counted if loss.avg_non_ignore else labels.numel()
            value = loss.loss_weight * total / (pixels + tiny)
            found[loss.loss_name] = found[loss.loss_name] + value if loss.loss_name in found else value
        found["acc_seg"] = (100 * (correct + tiny) / (counted + tiny)).reshape(1)
        return found


@MODELS.register_module(name="FusedFCNHead", force=True)
class FusedFCNHead(_LossInStrips, FCNHead):
    """MMSegmentation's ``FCNHead``, with less memory in training.

    The loss never has the logits of all pixels in memory. Arguments, parameters, outputs and gradients are those of
    ``FCNHead``, except for rounding, so weights load both ways.
    """


@MODELS.register_module(name="FusedFPNHead", force=True)
class FusedFPNHead(_LossInStrips, FPNHead):
    """MMSegmentation's ``FPNHead`` of Semantic FPN, with less memory in training.

    The loss never has the logits of all pixels in memory. Arguments, parameters, outputs and gradients are those of
    ``FPNHead``, except for rounding, so weights load both ways.
    """


@MODELS.register_module(name="FusedUPerHead", force=True)
class FusedUPerHead(_LossInStrips, UPerHead):
    """MMSegmentation's ``UPerHead``, faster and with less memory.

    ``UPerHead`` enlarges all levels to the size of the finest level, concatenates them, and convolves the result. It
    does the same with the maps of its pooling pyramid. This head computes the products of both convolutions at each
    map's own size (:func:`xcit_dense.ops.upsampled_conv.convolve_upsampled`). Arguments, parameters, outputs and
    gradients are those of ``UPerHead``, except for rounding, so weights load both ways.

    A convolution with hooks, or of another type than ``nn.Conv2d``, is called with the concatenated map.

    Example:
        >>> import torch
        >>> from xcit_dense.mm.heads import FusedUPerHead
        >>> head = FusedUPerHead(in_channels=[8] * 3, in_index=[0, 1, 2], channels=16, num_classes=5)
        >>> head([torch.rand(2, 8, side, side) for side in (16, 8, 4)]).shape
        torch.Size([2, 5, 16, 16])
    """

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Applies the pooling pyramid and its convolution to the coarsest level (B, C, H, W).

        Args:
            inputs: The levels, the coarsest level last.

        Returns:
            Map (B, channels, H, W).
        """
        level, pyramid = inputs[-1], self.psp_modules
        pooled = [branch(level) for branch in pyramid] if plain_type(pyramid) is PPM else pyramid(level)
        return _fuse(self.bottleneck, [level, *pooled], self.align_corners)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Computes the map (B, channels, H, W) before the classification, from the levels of the backbone."""
        levels = self._transform_inputs(inputs)
        maps = [lateral(level) for lateral, level in zip(self.lateral_convs, levels)]
        maps.append(self.psp_forward(levels))
        for index in reversed(range(len(maps) - 1)):
            maps[index] = maps[index] + _enlarge(maps[index + 1], maps[index], self.align_corners)
        # The gradient of these weights is faster to compute as part of the fusion than as part of the layer.
        outputs = [_fuse(layer, [level], self.align_corners) for layer, level in zip(self.fpn_convs, maps)]
        return _fuse(self.fpn_bottleneck, [*outputs, maps[-1]], self.align_corners)


@MODELS.register_module(name="FusedSegformerHead", force=True)
class FusedSegformerHead(_LossInStrips, SegformerHead):
    """MMSegmentation's ``SegformerHead``, faster and with less memory.

    ``SegformerHead`` enlarges all levels to the size of the finest level, concatenates them, and applies a linear layer
    to the channels of each position. This head applies the linear layer first, and enlarges and adds its outputs.
    Arguments, parameters, outputs and gradients are those of ``SegformerHead``, except for rounding, so weights load
    both ways.

    A layer with hooks, or of another type than ``nn.Conv2d``, is called with the concatenated map. With an
    ``interpolate_mode`` other than ``'bilinear'``, the head does what ``SegformerHead`` does.

    Example:
        >>> import torch
        >>> from xcit_dense.mm.heads import FusedSegformerHead
        >>> head = FusedSegformerHead(in_channels=[8] * 3, in_index=[0, 1, 2], channels=16, num_classes=5)
        >>> head([torch.rand(2, 8, side, side) for side in (16, 8, 4)]).shape
        torch.Size([2, 5, 16, 16])
    """

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Computes the logits (B, classes, H, W) from the levels of the backbone."""
        if self.interpolate_mode != "bilinear":
            return super().forward(inputs)
        levels = self._transform_inputs(inputs)
        maps = [convolve(level) for convolve, level in zip(self.convs, levels)]
        return self.cls_seg(_fuse(self.fusion_conv, maps, self.align_corners))


def _fuse(layer: Any, maps: Sequence[Tensor], align_corners: bool) -> Tensor:
    """Applies a ``ConvModule`` to the concatenation of all maps, enlarged to the size of the first map."""
    if not _can_be_split(layer):
        return layer(torch.cat([maps[0], *(_enlarge(x, maps[0], align_corners) for x in maps[1:])], dim=1))
    if len(maps) == 1 and isinstance(layer.conv, WinogradConv2d):
        x = layer.conv(maps[0])
    else:
        x = convolve_upsampled(maps, layer.conv.weight, layer.conv.bias, align_corners)
    if layer.with_norm:
        x = layer.norm(x)
    return layer.activate(x) if layer.with_activation else x


def _is_mean_cross_entropy(loss: Any) -> bool:
    """Returns whether a loss is the mean of the cross entropies of the pixels, without weights of classes."""
    if plain_type(loss) is not CrossEntropyLoss or loss.use_sigmoid or loss.use_mask:
        return False
    return loss.class_weight is None and loss.reduction == "mean"


def _can_be_split(layer: Any) -> bool:
    """Returns whether a call of a ``ConvModule`` would run a plain convolution of odd size, and then norm and ReLU."""
    if plain_type(layer) is not ConvModule or plain_type(layer.conv) not in (nn.Conv2d, WinogradConv2d):
        return False
    conv = layer.conv
    height, width = conv.kernel_size
    return (
        layer.order == ("conv", "norm", "act")
        and not layer.with_explicit_padding
        and conv.padding_mode == "zeros"
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and height == width
        and height % 2 == 1
        and conv.padding == (height // 2, width // 2)
    )


def _enlarge(x: Tensor, like: Tensor, align_corners: bool) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)
