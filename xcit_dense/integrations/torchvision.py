"""Backbones of this package in the detectors of torchvision: Faster R-CNN, Mask R-CNN, RetinaNet, FCOS."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from xcit_dense.models.backbone import Backbone


class BackboneWithFPN(nn.Module):
    """A backbone and torchvision's feature pyramid network, as torchvision's detectors take them.

    torchvision normalises images itself, with the mean and the deviation that the published weights need.

    Args:
        backbone: The backbone. Mask R-CNN and Faster R-CNN take all four levels. RetinaNet and FCOS take
            ``out_strides=(8, 16, 32)``.
        out_channels: Channels of each output.
        extra_blocks: What makes further outputs. By default the last output is pooled once more, as for Mask R-CNN.
            RetinaNet and FCOS take ``LastLevelP6P7(out_channels, out_channels)`` of torchvision.

    Attributes:
        body: The backbone. ``load_weights(detector.backbone.body, ...)`` loads weights into it.
        out_channels: Channels of each output. torchvision's detectors read this attribute.

    Example:
        >>> import torch
        >>> from torchvision.models.detection import MaskRCNN
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.integrations.torchvision import BackboneWithFPN
        >>> backbone = BackboneWithFPN(XCiT("nano_12_p16"))
        >>> detector = MaskRCNN(backbone, num_classes=91, min_size=64, max_size=64).eval()
        >>> sorted(detector([torch.rand(3, 64, 64)])[0])
        ['boxes', 'labels', 'masks', 'scores']
    """

    def __init__(self, backbone: Backbone, out_channels: int = 256, extra_blocks: ExtraFPNBlock | None = None) -> None:
        super().__init__()
        self.body = backbone
        self.fpn = FeaturePyramidNetwork(
            list(backbone.out_channels), out_channels, extra_blocks=extra_blocks or LastLevelMaxPool()
        )
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the outputs by name: ``'0'`` for the finest, and so on. Each is (B, out_channels, H', W')."""
        levels = OrderedDict((str(number), level) for number, level in enumerate(self.body(images)))
        outputs: dict[str, Tensor] = self.fpn(levels)
        return outputs
