"""Backbones of this package for detectron2, and for libraries that keep its conventions.

The module needs no detectron2. If detectron2 is installed, its ``isinstance(backbone, Backbone)`` is true for
:class:`LevelsByName`.
"""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor, nn

from xcit_dense.models.backbone import Backbone
from xcit_dense.models.interface import Shape


class LevelsByName(nn.Module):
    """A backbone that returns its levels by name, as detectron2's backbones do.

    Source: classes ``Backbone`` and ``FPN`` of detectron2's ``modeling/backbone``.

    Args:
        body: The backbone.
        prefix: What comes before the number n of a level of stride 2 ** n. Write ``'res'`` for a backbone under
            detectron2's FPN. The FPN calls its own outputs ``'p2'`` to ``'p6'``, and makes ``'p6'`` from the backbone's
            ``'p5'`` if the backbone has this name.

    Attributes:
        body: The backbone. ``load_weights(model.backbone.body, ...)`` loads weights into it.
        size_divisibility: 0: images may have any size.
        padding_constraints: Empty: images may have any proportions.

    Example:
        >>> import torch
        >>> from xcit_dense import XCiT
        >>> from xcit_dense.integrations.detectron2 import LevelsByName
        >>> backbone = LevelsByName(XCiT("nano_12_p16"), prefix="res")
        >>> backbone.output_shape()["res4"].stride
        16
        >>> {name: tuple(level.shape) for name, level in backbone(torch.rand(1, 3, 64, 64)).items()}["res4"]
        (1, 128, 4, 4)
    """

    size_divisibility = 0

    def __init__(self, body: Backbone, prefix: str = "p") -> None:
        super().__init__()
        self.body = body
        self.prefix = prefix
        self.padding_constraints: dict[str, int] = {}

    def output_shape(self) -> dict[str, Shape]:
        """Returns the channels and the stride of each level by name, with the fields of detectron2's ``ShapeSpec``."""
        return {f"{self.prefix}{name.removeprefix('p')}": shape for name, shape in self.body.output_shape().items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the levels by name, finest first.

        Args:
            images: (B, in_channels, H, W), normalised. detectron2 subtracts ``MODEL.PIXEL_MEAN`` and divides by
                ``MODEL.PIXEL_STD``, in the order of the channels that ``INPUT.FORMAT`` names.
        """
        return dict(zip(self.output_shape(), self.body(images)))


with suppress(ImportError):
    from detectron2.modeling import Backbone as Detectron2Backbone

    Detectron2Backbone.register(LevelsByName)
