"""RoIAlign on a CPU as sums of rows: each bin is a weighted sum of cells, for all channels at once.

The average of a bin is linear in the map: each cell around a sample has a weight, and the weight is the product of a
weight of its row and a weight of its column. So the weights of all samples of a bin are added first, for each axis by
itself. In channels-last memory, the channels of a cell are contiguous, and PyTorch's ``embedding_bag`` adds weighted
rows of a table on all cores. The gradient is the transposed sum: each cell adds the bins that read the cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from xcit_dense.ops.mmcv.bilinear import sample_points

_FEWEST_CHANNELS = 16
"""With fewer channels, the weights take more time than the sums."""

_ENTRIES = 2**19
"""The number of cells of the bins that are added in one call. Their indices need about 25 MB."""

_ENTRIES_OF_GRADIENT = 2**22
"""The same for the gradient. Each call writes the gradient of a complete map."""


@dataclass(frozen=True)
class Pooling:
    """What RoIAlign computes.

    Attributes:
        size: Rows and columns of bins of an RoI.
        scale: Feature cells per pixel.
        sampling_ratio: Samples along each side of a bin, or 0 for the number of cells along the side.
        aligned: Whether the centres of cells have half-integer coordinates.
    """

    size: tuple[int, int]
    scale: float
    sampling_ratio: int = 0
    aligned: bool = True


def can_sum_rows(maps: Tensor, rois: Tensor, pooling: Pooling) -> bool:
    """Returns whether :func:`sum_rows` is the right way to pool these RoIs.

    Args:
        maps: (B, C, H, W) features.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image.
        pooling: What is computed.

    Returns:
        True on a CPU for many channels, unless the RoIs are few for a map that is not in channels-last memory, or an
        RoI is not finite or very large.
    """
    if maps.device.type != "cpu" or maps.shape[1] < _FEWEST_CHANNELS or not len(rois):
        return False
    bins = pooling.size[0] * pooling.size[1]
    if not maps.is_contiguous(memory_format=torch.channels_last) and len(rois) * bins * 8 < maps[:, 0].numel():
        return False  # the copy of the map would take more time than the sums
    # Samples are as many as cells along the RoI. The comparison is false for NaN.
    largest = 4 * max(maps.shape[2:]) / pooling.scale
    return bool(rois[:, 1:].abs().max() <= largest)


def sum_rows(maps: Tensor, rois: Tensor, pooling: Pooling) -> Tensor:
    """Pools the features inside boxes.

    Args:
        maps: (B, C, H, W) features, float32 or float64. Channels-last memory saves a copy.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image, of the same dtype.
        pooling: What is computed.

    Returns:
        (K, h, w, C) for ``pooling.size`` h x w: the average of the samples of each bin.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.mmcv.roi_sums import Pooling, sum_rows
        >>> maps = torch.arange(16.0).view(1, 1, 4, 4)
        >>> sum_rows(maps, torch.tensor([[0.0, 0, 0, 4, 4]]), Pooling(size=(2, 2), scale=1.0)).flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """
    table = maps.detach().permute(0, 2, 3, 1).reshape(-1, maps.shape[1])  # (B H W, C)
    bins = _Bins.of(rois.detach(), maps.shape, pooling)
    pooled = maps.new_empty(len(rois) * bins.number, maps.shape[1])
    for part in bins.parts(_ENTRIES):
        cells, weights, ends = bins.entries(part)
        pooled[part.start * bins.number : part.stop * bins.number] = _add(table, cells, weights, ends)
    return pooled.view(len(rois), *pooling.size, -1)


def sum_rows_backward(gradient: Tensor, shape: torch.Size, rois: Tensor, pooling: Pooling) -> Tensor:
    """Returns the gradient of the features.

    Args:
        gradient: (K, h, w, C), the gradient of the output of :func:`sum_rows`.
        shape: The shape (B, C, H, W) of the features.
        rois: As for :func:`sum_rows`.
        pooling: As for :func:`sum_rows`.

    Returns:
        (B, C, H, W) in channels-last memory.
    """
    batch, channels, height, width = shape
    table = gradient.reshape(-1, channels)  # (K h w, C)
    bins = _Bins.of(rois.detach(), shape, pooling)
    total: Tensor | None = None
    for part in bins.parts(_ENTRIES_OF_GRADIENT):
        cells, weights, ends = bins.entries(part)
        places = torch.arange(part.start * bins.number, part.stop * bins.number)
        readers = places.repeat_interleave(ends.diff())  # (entries,) the bin that reads the cell
        order = cells.argsort(stable=True)
        counts = torch.bincount(cells, minlength=batch * height * width)
        sums = _add(table, readers[order], weights[order], F.pad(counts.cumsum(0), (1, 0)))
        total = sums if total is None else total.add_(sums)
    if total is None:
        total = gradient.new_zeros(batch * height * width, channels)
    return total.view(batch, height, width, channels).permute(0, 3, 1, 2)


def pool_levels(maps: Sequence[Tensor], rois: Tensor, level: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    """Pools the features inside boxes, each box from one level. Autograd computes the gradients of the maps.

    Args:
        maps: The levels (B, C, H, W), float32 or float64. The number of channels is the same.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image, of the same dtype.
        level: (K,) int64, the index of the level of each box. A box with another index gets zeros.
        poolings: What is computed from each level. The size is the same.

    Returns:
        (K, C, h, w) in channels-last memory: the average of the samples of each bin.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.mmcv.roi_sums import Pooling, pool_levels
        >>> maps = [torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
        >>> rois = torch.tensor([[0.0, 0, 0, 4, 4]] * 2)
        >>> poolings = [Pooling(size=(1, 1), scale=scale) for scale in (1.0, 0.5)]
        >>> pool_levels(maps, rois, torch.tensor([1, 0]), poolings).flatten().tolist()
        [0.0, 1.0]
    """
    return _PoolLevels.apply(rois, level, poolings, *maps)


class _PoolLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rois: Tensor, level: Tensor, poolings: Sequence[Pooling], *maps: Tensor) -> Tensor:
        ctx.save_for_backward(rois, level)
        ctx.poolings, ctx.shapes = poolings, [x.shape for x in maps]
        of_level = [(level == number).nonzero()[:, 0] for number in range(len(maps))]
        all_pooled = sum(map(len, of_level)) == len(rois)
        make = maps[0].new_empty if all_pooled else maps[0].new_zeros
        pooled = make(len(rois), *poolings[0].size, maps[0].shape[1])  # (K, h, w, C)
        for x, index, pooling in zip(maps, of_level, poolings):
            if len(index):
                pooled.index_copy_(0, index, sum_rows(x, rois[index], pooling))
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rois, level = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1)  # (K, C, h, w) -> (K, h, w, C)
        gradients: list[Tensor | None] = [None] * 3
        for number, (shape, pooling) in enumerate(zip(ctx.shapes, ctx.poolings)):
            if ctx.needs_input_grad[3 + number]:
                index = (level == number).nonzero()[:, 0]
                gradients.append(sum_rows_backward(grad[index], shape, rois[index], pooling))
            else:
                gradients.append(None)
        return tuple(gradients)


@dataclass(frozen=True)
class _Axis:
    """The cells of the bins along one axis.

    Attributes:
        first: (K, bins) the first cell of each bin.
        count: (K, bins) the number of its cells.
        weights: (K, bins, n) the weights of the cells.
    """

    first: Tensor
    count: Tensor
    weights: Tensor

    @classmethod
    def of(cls, near: Tensor, far: Tensor, bins: int, cells: int, pooling: Pooling) -> _Axis:
        """Adds the weights of the samples between two coordinates, both (K,), along an axis with a number of cells."""
        side = far - near
        if not pooling.aligned:
            side = side.clamp(min=1)
        points, valid = sample_points(near[:, None], side / bins, bins, pooling.sampling_ratio)  # (K, bins, S), (K, S)
        share = valid.to(points) / valid.sum(1, keepdim=True).clamp(min=1)  # (K, S)
        inside = (points >= -1) & (points <= cells)
        points = points.clamp(0, cells - 1)
        cell = points.long()
        beyond = points - cell
        inside &= valid[:, None]
        weight = share[:, None] * inside  # (K, bins, S)
        if not points.shape[2]:
            nothing = cell.new_zeros(len(near), bins)
            return cls(nothing, nothing, points)
        first = torch.where(inside, cell, cells - 1).amin(2)  # (K, bins)
        last = torch.where(inside, cell + 1, -1).amax(2).clamp(max=cells - 1)
        most = int((last - first).max().clamp(min=0)) + 1
        # A sample outside of the map may have any cell, because its weight is 0.
        offset = (cell - first[:, :, None]).clamp(0, most - 1)
        weights = near.new_zeros(len(near), bins, most + 1)
        weights.scatter_add_(2, offset, weight * (1 - beyond))
        # The cell after the last cell of the map is not counted. Its weight is 0.
        weights.scatter_add_(2, offset + 1, weight * beyond)
        return cls(first, (last - first + 1).clamp(min=0), weights)


@dataclass(frozen=True)
class _Bins:
    """The cells of all bins.

    Attributes:
        start: (K,) the first cell of the image of each RoI in the table of all cells.
        width: Cells in a row of the map.
        y: The rows.
        x: The columns.
    """

    start: Tensor
    width: int
    y: _Axis
    x: _Axis

    @classmethod
    def of(cls, rois: Tensor, shape: torch.Size, pooling: Pooling) -> _Bins:
        """Finds the cells of (K, 5) RoIs in maps of a shape (B, C, H, W)."""
        _, _, height, width = shape
        x1, y1, x2, y2 = (rois[:, 1:] * pooling.scale - (0.5 if pooling.aligned else 0)).unbind(1)
        y = _Axis.of(y1, y2, pooling.size[0], height, pooling)
        x = _Axis.of(x1, x2, pooling.size[1], width, pooling)
        return cls(rois[:, 0].long() * (height * width), width, y, x)

    @property
    def number(self) -> int:
        """The number of bins of an RoI."""
        return self.y.first.shape[1] * self.x.first.shape[1]

    def parts(self, entries: int) -> Iterator[slice]:
        """Splits the RoIs, so that a part has about as many cells in all bins as named, or is one RoI."""
        cells = (self.y.count.sum(1) * self.x.count.sum(1)).cumsum(0)  # (K,)
        begin = 0
        for count in (cells // entries).unique_consecutive(return_counts=True)[1].tolist():
            yield slice(begin, begin + count)
            begin += count

    def entries(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Lists the cells of the bins of some RoIs.

        Args:
            part: The RoIs.

        Returns:
            (entries,) indices of the cells in the table of all cells, (entries,) their weights, and (bins + 1,) the
            places in the list at which the cells of the bins begin and end.
        """
        columns = self.x.first.shape[1]
        y, x = ((axis.first[part], axis.count[part], axis.weights[part]) for axis in (self.y, self.x))
        # First, a list of the rows of cells in all bins.
        in_bin = y[1][:, :, None].expand(-1, -1, columns)  # (K, rows, columns)
        row, number = _repeat(in_bin.flatten())  # (list,) the bin, and the number of the row in the bin
        line = row // columns  # the row of bins
        roi = line // y[0].shape[1]
        column = roi * columns + row % columns  # the column of bins
        weight = y[2].flatten(0, 1)[line, number]
        cell = self.start[part][roi] + (y[0].flatten()[line] + number) * self.width + x[0].flatten()[column]
        # Second, the cells of each of these rows.
        place, number = _repeat(x[1].flatten()[column])
        cells = cell[place] + number
        weights = weight[place] * x[2].flatten()[(column * x[2].shape[2])[place] + number]
        ends = F.pad((y[1][:, :, None] * x[1][:, None]).flatten().cumsum(0), (1, 0))
        return cells, weights, ends


def _repeat(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Lists each index as often as its count, and numbers its entries.

    >>> [values.tolist() for values in _repeat(torch.tensor([2, 0, 1]))]
    [[0, 0, 2], [0, 1, 0]]
    """
    index = torch.arange(len(counts)).repeat_interleave(counts)
    begin = counts.cumsum(0) - counts
    return index, torch.arange(len(index)) - begin[index]


def _add(table: Tensor, rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Adds weighted rows (entries,) of a table, each sum from one place of `ends` (sums + 1,) to the next."""
    return F.embedding_bag(rows, table, ends, mode="sum", per_sample_weights=weights, include_last_offset=True)
