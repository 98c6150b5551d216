"""Draws the class attention of a classifier: at which positions its class token looks, head by head.

Source: figure 4 of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xcit_dense.errors import UserError
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.class_attention import ClassAttention
from xcit_dense.models.xcit import XCiT
from xcit_dense.visualization.figures import make_figure, panel_size, save_figure, show
from xcit_dense.weights.read import naming, read_weights
from xcit_dense.weights.resolve import resolve

_COVER = 0.65  # the opacity of a map over its image


@dataclass(frozen=True)
class ClassMaps:
    """Where the class token looks, for each layer of class attention and each head.

    Attributes:
        positions: (B, L, h, ceil(H / p), ceil(W / p)): the weights of the tokens of the image.
        token: (B, L, h): the weight of the class token itself. All weights of a head sum to 1.
    """

    positions: Tensor
    token: Tensor


def load_class_attention(weights: str | Path) -> ClassAttention:
    """Loads the class attention of a classifier.

    Args:
        weights: As for :func:`xcit_dense.load_weights`: a published name, an address or a file.

    Raises:
        UserError: The checkpoint cannot be read, or does not contain class attention.
    """
    path = resolve(weights)
    with naming(path):
        return ClassAttention.from_weights(read_weights(path))


@torch.no_grad()
def observe_class_attention(backbone: Backbone, layers: ClassAttention, images: Tensor) -> ClassMaps:
    """Runs a backbone and the class attention of the same checkpoint.

    Args:
        backbone: An XCiT with all of its blocks, in evaluation mode.
        layers: The class attention.
        images: (B, in_channels, H, W), normalised.

    Returns:
        Where the class token looks.

    Raises:
        UserError: The backbone is not an XCiT or lacks its last blocks, or the images do not fit the backbone.

    Example:
        >>> from xcit_dense import XCiT
        >>> layers = ClassAttention(128, num_heads=4).eval()
        >>> maps = observe_class_attention(XCiT("nano_12_p16").eval(), layers, torch.rand(1, 3, 64, 96))
        >>> maps.positions.shape, maps.token.shape
        (torch.Size([1, 2, 4, 4, 6]), torch.Size([1, 2, 4]))
    """
    if not isinstance(backbone, XCiT) or len(backbone.blocks) < backbone.full_depth:
        raise UserError(f"Class attention follows the last block of an XCiT; {backbone.name} does not have this block.")
    outputs: list[Tensor] = []
    handle = backbone.blocks[-1].register_forward_hook(lambda block, inputs, output: outputs.append(output))
    try:
        backbone(images)
    finally:
        handle.remove()
    weights = layers(outputs[0])  # (B, L, h, 1 + N)
    return ClassMaps(weights[..., 1:].unflatten(-1, outputs[0].shape[2:]), weights[..., 0])


def draw_class_attention(path: str | Path, image: Image.Image, maps: ClassMaps, patch_size: int) -> None:
    """Draws the map of each head over the image, the first layer above. Bright positions have large weights.

    Args:
        path: The PNG file, which is written atomically.
        image: The backbone's input.
        maps: The maps for the image. Of a batch, the first image's maps are drawn.
        patch_size: The side of a token in pixels.

    Raises:
        UserError: The file cannot be written.
    """
    positions, token = maps.positions[0].float().cpu().numpy(), maps.token[0].tolist()
    layers, heads = positions.shape[:2]
    columns = min(heads, 4 if heads < 16 else 8)
    banks = math.ceil(heads / columns)  # the rows of each layer
    width, height = panel_size(image, area=5.5)
    figure = make_figure((columns + 1) * width, layers * banks * (height + 0.4))
    grid = figure.subplots(layers * banks, columns + 1, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    # A dark image, so that only a large weight is bright.
    grey = np.asarray(image.convert("L").convert("RGB")) // 2
    for layer in range(layers):
        show(grid[layer * banks, 0], image, np.asarray(image), f"class attention, layer {layer + 1} of {layers}")
        for head in range(heads):
            bank, column = divmod(head, columns)
            axes = grid[layer * banks + bank, column + 1]
            values = positions[layer, head]
            title = f"head {head}: {token[layer][head]:.1%} on itself"
            show(axes, image, grey, title)
            high = np.quantile(values, 0.99)
            show(
                axes,
                image,
                values,
                title,
                stride=patch_size,
                vmin=0,
                vmax=high if high > 0 else 1,
                cmap="inferno",
                alpha=_COVER,
            )
    save_figure(figure, Path(path))
