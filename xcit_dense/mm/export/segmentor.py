"""Segmentors as modules from images to logits or labels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xcit_dense.mm.export.plain import make_plain, pad

Output = Literal["logits", "labels"]


class Segmentor(nn.Module):
    """A segmentor that takes and returns tensors.

    Args:
        model: A segmentor of MMSegmentation that :func:`xcit_dense.mm.export.supported.check_segmentor` accepts, in
            evaluation mode. Layers that would fix the size of the images are replaced.
        output: ``'logits'`` or ``'labels'``.
        divisor: Images are padded at the bottom and at the right to multiples of this number of pixels; 1 does not pad.
        padding: The value of padded pixels, after the normalisation.
    """

    def __init__(self, model: Any, output: Output, divisor: int = 1, padding: float = 0.0) -> None:
        super().__init__()
        make_plain(model)
        self.segmentor = model
        self.output = output
        self.divisor = divisor
        self.padding = padding

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def forward(self, images: Tensor) -> Tensor:
        """Segments normalised images (B, 3, H, W).

        Returns:
            Logits (B, classes, H, W), or labels (B, H, W), int64.
        """
        height, width = images.shape[2:]
        if self.divisor > 1:
            images = pad(images, self.divisor, self.padding)
        head = self.segmentor.decode_head
        logits = head(self.segmentor.extract_feat(images))
        size = images.shape[2:]
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=head.align_corners)
        if self.divisor > 1:
            logits = logits[:, :, :height, :width]
        if self.output == "logits":
            return logits
        if logits.shape[1] == 1:
            return (logits[:, 0].sigmoid() > head.threshold).to(torch.int64)
        return logits.argmax(dim=1)
