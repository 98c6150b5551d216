"""XCiT as an encoder of segmentation_models.pytorch, and of libraries that take its encoders by name.

Example:
    >>> import segmentation_models_pytorch as smp
    >>> import torch
    >>> from xcit_dense.integrations.smp import register_encoders
    >>> register_encoders()[:2]
    ['xcit_nano_12_p16', 'xcit_nano_12_p8']
    >>> model = smp.Unet("xcit_nano_12_p16", encoder_weights=None, classes=5).eval()
    >>> model(torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 5, 64, 64])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.models.loading import adapt_channels
from xcit_dense.models.pyramid import STRIDES, level_name, make_level
from xcit_dense.models.xcit import XCiT
from xcit_dense.ops.conv import channels_last
from xcit_dense.ops.norms import make_norm_layer
from xcit_dense.ops.recompute import run
from xcit_dense.variants import VARIANTS

try:
    from segmentation_models_pytorch.encoders import encoders
    from segmentation_models_pytorch.encoders._base import EncoderMixin
except ImportError as error:
    raise MissingLibraryError(
        "This module needs segmentation_models.pytorch; write pip install 'xcit-dense[smp]'."
    ) from error


class XCiTEncoder(nn.Module, EncoderMixin):
    """An XCiT that returns the image and maps at strides 2, 4, 8, 16 and 32.

    The map of stride 2 is the output of the first convolution of the stem.

    Args:
        variant: A name in :data:`xcit_dense.VARIANTS`.
        depth: The number of maps after the image, 2 to 5: ``depth=3`` ends at stride 8.
        output_stride: The coarsest stride, 32, 16 or 8. Levels of coarser strides get this stride.
        **options: Further arguments of :class:`xcit_dense.XCiT`.

    Attributes:
        backbone: The XCiT. ``xcit_dense.load_weights(encoder.backbone, ...)`` loads weights.

    Raises:
        UserError: ``depth`` is out of range, or an argument of XCiT is not possible.
    """

    def __init__(self, variant: str, depth: int = 5, output_stride: int = 32, **options: Any) -> None:
        if not 2 <= depth <= 5:
            raise UserError(f"depth={depth}: the encoder has levels at strides 4 to 32; write a depth from 2 to 5.")
        super().__init__()
        self.backbone = XCiT(variant, out_strides=STRIDES[: depth - 1], **options)
        self._depth = depth
        self._in_channels = self.backbone.in_channels
        self._output_stride = output_stride
        stem: Any = self.backbone.patch_embed.proj
        half = stem[0][0].out_channels
        self._out_channels = [self._in_channels, half, *self.backbone.out_channels]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Computes the maps.

        Args:
            images: (B, in_channels, H, W).

        Returns:
            The images, and a map for each stride, finest first.
        """
        stem: Any = self.backbone.patch_embed.proj
        x = channels_last(images)
        half = run(stem[:2], x)  # (B, C / 8 or C / 4, H / 2, W / 2)
        return [images, half, *self.backbone.levels_of_tokens(run(stem[2:], half))]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Changes the number of channels of the images.

        Args:
            in_channels: The number of channels.
            pretrained: Whether the weights of the stem are adapted, see
                :func:`xcit_dense.models.loading.adapt_channels`. Otherwise the new weights are random.
        """
        if in_channels == self._in_channels:
            return
        stem: Any = self.backbone.patch_embed.proj
        first = stem[0]
        old = first[0]
        new = nn.Conv2d(in_channels, old.out_channels, 3, stride=2, padding=1, bias=False)
        if pretrained:
            new.weight.data = adapt_channels(old.weight.data, in_channels)[0].clone()
        first[0] = new.to(old.weight.device, old.weight.dtype)
        self.backbone.in_channels = self._in_channels = in_channels
        self._out_channels[0] = in_channels

    def make_dilated(self, output_stride: int) -> None:
        """Gives levels of coarser strides a finer stride. The tokens of XCiT have one stride, so no layer is dilated.

        Args:
            output_stride: The coarsest stride, 8 or 16.

        Raises:
            UserError: The stride is neither 8 nor 16.
        """
        if output_stride not in (8, 16):
            raise UserError(f"output_stride={output_stride}: write 8, 16 or 32.")
        dim, patch_size = self.backbone.embed_dim, self.backbone.patch_size
        for stride in self.backbone.out_strides:
            if stride > output_stride:
                level = make_level(dim, patch_size, make_norm_layer("BN"), output_stride)
                self.backbone.add_module(level_name(stride), level)


def register_encoders(variants: Sequence[str] = tuple(VARIANTS)) -> list[str]:
    """Adds XCiT to the encoders of segmentation_models.pytorch, as ``'xcit_small_12_p16'`` and so on.

    The library downloads no weights for these encoders: write ``encoder_weights=None``, and load weights with
    ``xcit_dense.load_weights(model.encoder.backbone, 'small_12_p16_384_dist')``. The published weights expect RGB in
    [0, 1], minus the mean (0.485, 0.456, 0.406), divided by the deviation (0.229, 0.224, 0.225).

    Args:
        variants: Names in :data:`xcit_dense.VARIANTS`.

    Returns:
        The names of the encoders.
    """
    names = []
    for variant in variants:
        name = f"xcit_{variant}"
        encoders[name] = {"encoder": XCiTEncoder, "pretrained_settings": {}, "params": {"variant": variant}}
        names.append(name)
    return names
