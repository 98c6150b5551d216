"""Bilinear interpolation at points of RoIs, as mmcv's operators define it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sample_points(start: Tensor, bin_size: Tensor, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Returns the coordinates of the samples of each bin along one side of RoIs.

    Args:
        start: (K, 1) coordinate in cells at which the RoI starts.
        bin_size: (K,) length of a bin in cells.
        bins: Bins along the side.
        samples: Samples along the side of a bin, or 0 for the number of cells along the side, which differs between
            RoIs.

    Returns:
        (K, bins, S) coordinates, and (K, S) whether the RoI has this sample. S is the greatest number of samples.
    """
    # A bin without length does not have a sample.
    per_roi = torch.full_like(bin_size, samples) if samples > 0 else bin_size.ceil().clamp(min=0)
    most = int(per_roi.max().item()) if len(per_roi) else 0
    number = torch.arange(most, device=start.device, dtype=start.dtype)
    steps = (number + 0.5) * bin_size[:, None] / per_roi[:, None].clamp(min=1)  # (K, S)
    first = start + torch.arange(bins, device=start.device, dtype=start.dtype) * bin_size[:, None]  # (K, bins)
    return first[:, :, None] + steps[:, None], number < per_roi[:, None]


def corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Returns the four cells around each point and their weights.

    A point up to one cell outside of the map takes the value of the border. A point further outside has weights 0.

    Args:
        y: (...) rows of the points in cells.
        x: (...) columns of the points.
        height: Rows of the map.
        width: Columns of the map.

    Returns:
        (..., 4) int64 indices into the flat map, and (..., 4) weights.

    Example:
        >>> cells, weights = corners(torch.tensor(0.0), torch.tensor(0.25), height=2, width=3)
        >>> cells.tolist(), weights.tolist()
        ([0, 1, 3, 4], [0.75, 0.25, 0.0, 0.0])
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().nan_to_num().long(), x.detach().nan_to_num().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    weights = torch.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], dim=-1)
    rows = torch.stack([top, top, bottom, bottom], dim=-1)
    columns = torch.stack([left, right, left, right], dim=-1)
    return rows * width + columns, weights * inside[..., None]


def interpolate(maps: Tensor, image: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Returns the values of all channels at points.

    Args:
        maps: (B, C, H, W) features.
        image: (K,) int64 index of the image of each RoI.
        cells: (K, ..., 4) indices from :func:`corners`.
        weights: (K, ..., 4) weights from :func:`corners`.

    Returns:
        (K, ..., C) values.
    """
    size = math.prod(maps.shape[2:])
    rows = maps.movedim(1, -1).reshape(-1, maps.shape[1])  # (B * H * W, C)
    index = cells + image.view(-1, *[1] * (cells.dim() - 1)) * size
    values = rows.new_zeros(*cells.shape[:-1], maps.shape[1])
    for corner in range(4):
        values = values + rows[index[..., corner]] * weights[..., corner, None]
    return values
