"""RoIPool with the signatures of mmcv's compiled operators, in plain PyTorch.

torchvision's RoIPool rounds the corners of an RoI to cells first, and mmcv's does not. So torchvision's kernel gives
other values. Girshick, "Fast R-CNN", 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcit_dense.ops.mmcv.common import working_dtype

_ROIS_AT_ONCE = 16
"""All cells of the bins of this number of RoIs are in memory together."""


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Writes the greatest cell of each bin into `output`, as ``mmcv._ext.roi_pool_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image. The corners are inclusive.
        output: (K, C, pooled_height, pooled_width), which is overwritten. A bin without cells has the value 0.
        argmax: As `output`, int32. It is overwritten with the flat index of the greatest cell, or -1 without cells.
        pooled_height: Rows of bins of an RoI.
        pooled_width: Columns of bins of an RoI.
        spatial_scale: Feature cells per pixel.
    """
    chunks = (tensor.split(_ROIS_AT_ONCE) for tensor in (rois.to(working_dtype(rois)), output, argmax))
    table = input.detach().movedim(1, -1)  # (B, H, W, C)
    for boxes, values, places in zip(*chunks):
        greatest, index = _greatest(table, boxes, (pooled_height, pooled_width), spatial_scale)
        values.copy_(greatest.movedim(3, 1))
        places.copy_(index.movedim(3, 1))


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Writes the gradient of the features into `grad_input`, as ``mmcv._ext.roi_pool_backward`` does.

    Args:
        grad_output: (K, C, pooled_height, pooled_width) gradient of the pooled features.
        rois: As for :func:`roi_pool_forward`.
        argmax: The indices from :func:`roi_pool_forward`.
        grad_input: (B, C, H, W), which is overwritten.
        pooled_height: Not used; `grad_output` has the size.
        pooled_width: Not used.
        spatial_scale: Not used.
    """
    _, channels, height, width = grad_input.shape
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)  # (K, C)
    index = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    gradient = grad_output.new_zeros(grad_input.numel(), dtype=working_dtype(grad_output))
    gradient.index_add_(0, index.flatten(), (grad_output.to(gradient.dtype) * (argmax >= 0)).flatten())
    grad_input.copy_(gradient.view(grad_input.shape))


def _greatest(table: Tensor, rois: Tensor, bins: tuple[int, int], spatial_scale: float) -> tuple[Tensor, Tensor]:
    """Returns the greatest cell of each bin and its flat index, each (K, rows, columns, C).

    Args:
        table: (B, H, W, C) features.
        rois: (K, 5) RoIs.
        bins: Rows and columns of bins.
        spatial_scale: Feature cells per pixel.
    """
    height, width = table.shape[1:3]
    start = rois[:, 1:3] * spatial_scale  # (K, 2) x, y
    side = (rois[:, 3:] + 1) * spatial_scale - start
    row, in_row = _cells(start[:, 1], side[:, 1], bins[0], height)
    column, in_column = _cells(start[:, 0], side[:, 0], bins[1], width)
    index = row[:, :, None, :, None] * width + column[:, None, :, None, :]  # (K, rows, columns, h, w)
    valid = in_row[:, :, None, :, None] & in_column[:, None, :, None, :] & (side > 0).all(1).view(-1, 1, 1, 1, 1)
    index, valid = index.flatten(3), valid.flatten(3)
    image = rois[:, 0].long().view(-1, 1, 1, 1)
    values = table.flatten(1, 2)[image, index].masked_fill(
        ~valid[..., None], -torch.inf
    )  # (K, rows, columns, h * w, C)
    greatest, place = values.max(3)
    has_cell = valid.any(3, keepdim=True)
    return torch.where(has_cell, greatest, 0), torch.where(has_cell, index.gather(3, place), -1)


def _cells(start: Tensor, side: Tensor, bins: int, length: int) -> tuple[Tensor, Tensor]:
    """Returns (K, bins, S) numbers of the cells of each bin along a side, and whether the bin has this cell."""
    number = torch.arange(bins, device=start.device, dtype=start.dtype)
    size = side[:, None] / bins
    first = (number * size + start[:, None]).floor().clamp(0, length).long()
    end = ((number + 1) * size + start[:, None]).ceil().clamp(0, length).long()
    most = max(1, int((end - first).max())) if len(start) else 1
    cells = first[..., None] + torch.arange(most, device=start.device)
    return cells.clamp(max=length - 1), cells < end[..., None]
