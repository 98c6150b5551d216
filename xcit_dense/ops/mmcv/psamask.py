"""The attention mask of PSANet with the signatures of mmcv's compiled operators, in plain PyTorch.

Zhao et al., "PSANet: Point-wise Spatial Attention Network for Scene Parsing", 2018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_COLLECT = 0
"""The `psa_type` of a mask that is centred on the cell that collects. 1 means the cell that distributes."""


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Moves the weights of relative cells to absolute cells, as ``mmcv._ext.psamask_forward`` does.

    Args:
        input: (B, h_mask * w_mask, H, W) weights of the cells around each cell.
        output: (B, H * W, H, W) zeros. The weight of cells that are inside the map is written.
        psa_type: 0 (collect): `output[b, other, cell]` is the weight of `other` in the mask around `cell`.
            1 (distribute): it is the weight of `cell` in the mask around `other`.
        num_: Not used; `input` has the number of images.
        h_feature: H, rows of the map.
        w_feature: W, columns of the map.
        h_mask: Rows of a mask.
        w_mask: Columns of a mask.
        half_h_mask: Row of the mask's centre.
        half_w_mask: Column of the mask's centre.
    """
    source, target = _places(
        (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask), psa_type, input.device
    )
    output.view(len(output), math.prod(output.shape[1:]))[:, target] = input.flatten(1)[:, source]


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Writes the gradient of the weights into `grad_input`, as ``mmcv._ext.psamask_backward`` does.

    Args:
        grad_output: (B, H * W, H, W) gradient of the moved weights.
        grad_input: (B, h_mask * w_mask, H, W) zeros. The gradient of cells that are inside the map is written.
        psa_type: As for :func:`psamask_forward`, like all further arguments.
        num_: Not used.
        h_feature: As there.
        w_feature: As there.
        h_mask: As there.
        w_mask: As there.
        half_h_mask: As there.
        half_w_mask: As there.
    """
    source, target = _places(
        (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask), psa_type, grad_output.device
    )
    grad_input.view(len(grad_input), math.prod(grad_input.shape[1:]))[:, source] = grad_output.flatten(1)[:, target]


def _places(
    size: tuple[int, int], mask: tuple[int, int], centre: tuple[int, int], psa_type: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns flat indices into an image's input and output, one pair for each weight inside the map."""
    height, width = size
    axes = (torch.arange(length, device=device) for length in (*size, *size))
    other_y, other_x, y, x = torch.meshgrid(*axes, indexing="ij")  # (H, W, H, W)
    row, column = other_y - y + centre[0], other_x - x + centre[1]
    inside = (row >= 0) & (row < mask[0]) & (column >= 0) & (column < mask[1])
    cell, other = y * width + x, other_y * width + other_x
    source = (row * mask[1] + column) * (height * width) + cell
    target = other * (height * width) + cell if psa_type == _COLLECT else cell * (height * width) + other
    return source[inside], target[inside]
