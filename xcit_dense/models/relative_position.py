"""BEiT's attention with relative positions, for images of any size.

Each head has a table of biases, one for each offset between two tokens of a grid of H x W tokens: (2 H - 1)(2 W - 1)
rows. Three more rows are for the class token: class token to tokens, tokens to class token, class token to itself. The
bias of query (y, x) and key (y', x') is row (y - y' + H - 1)(2 W - 1) + (x - x' + W - 1).

For a grid of another size, the table is resized. Offsets near 0 keep their distance and far offsets are spread: the
offsets of the table are placed at 0, +-1, +-(1 + q), +-(1 + q + q^2), ... of the new grid, with q so that the outermost
offset reaches the border. A cubic spline through these points is read at the integers. Beyond the outermost point, its
value is used.

Source: Bao et al. 2022 (BEiT); the loader of the authors' segmentation code.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Size = tuple[int, int]
"""Rows and columns of a grid of tokens."""

LARGEST_MAP = 2**24
"""Values of the largest attention map or bias that is computed at once. Larger maps are computed in parts."""


class Grid:
    """The offsets between the tokens of a grid. The blocks of a forward pass share a grid.

    Args:
        size: Rows and columns.
        device: The device of the indices.
    """

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size = size
        self._codes = self._number(device)
        self._last: tuple[int, int, Tensor] | None = None

    def _number(self, device: torch.device) -> Tensor:
        """Numbers the tokens so that differences of numbers are differences of rows of the table, (N,)."""
        rows, columns = self.size
        y = torch.arange(rows, device=device)[:, None]
        x = torch.arange(columns, device=device)
        return (y * (2 * columns - 1) + x).flatten()

    def index(self, start: int, stop: int) -> Tensor:
        """Finds the rows of the table for some queries and all keys. The class token has number 0.

        Args:
            start: The first query.
            stop: One more than the last query.

        Returns:
            (stop - start, 1 + N), int64.
        """
        if self._last is None or self._last[:2] != (start, stop):
            self._last = start, stop, self._index(start, stop)
        return self._last[2]

    def _index(self, start: int, stop: int) -> Tensor:
        rows, columns = self.size
        offsets = (2 * rows - 1) * (2 * columns - 1)
        centre = (rows - 1) * (2 * columns - 1) + columns - 1
        queries = self._codes[max(start - 1, 0) : stop - 1]
        index = queries.new_empty(stop - start, len(self._codes) + 1)
        first = 1 if start == 0 else 0  # the class token's row, if it is among the queries
        index[first:, 1:] = queries[:, None] - self._codes + centre
        index[first:, 0] = offsets + 1
        if first:
            index[0, 1:] = offsets
            index[0, 0] = offsets + 2
        return index


class RelativePositionAttention(nn.Module):
    """BEiT's attention for any grid, with the parameters of timm's layer.

    Scores and biases are computed for some queries at once if all queries together need more than :data:`LARGEST_MAP`
    values. The backward pass then computes them again.

    Args:
        attention: timm's ``Attention`` of BEiT. Its parameters become the parameters of this layer.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.window: Size = tuple(attention.window_size)
        self.qkv: nn.Linear = attention.qkv
        self.q_bias: nn.Parameter = attention.q_bias
        self.v_bias: nn.Parameter = attention.v_bias
        self.relative_position_bias_table: nn.Parameter = attention.relative_position_bias_table
        self.attn_drop: nn.Dropout = attention.attn_drop
        self.proj: nn.Linear = attention.proj
        self.proj_drop: nn.Dropout = attention.proj_drop

    def forward(self, x: Tensor, shared_rel_pos_bias: Grid) -> Tensor:
        """Attends.

        Args:
            x: (B, 1 + N, C), the class token first.
            shared_rel_pos_bias: The grid of the N tokens. The name is the name in timm's block.

        Returns:
            (B, 1 + N, C).
        """
        grid = shared_rel_pos_bias
        count = x.shape[1]
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, h, 1 + N, d)
        table = resize_table(self.relative_position_bias_table, self.window, grid.size).T.contiguous()  # (h, rows)

        def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, start: int) -> Tensor:
            stop = start + q.shape[2]
            index = grid.index(start, stop)
            mask = table.index_select(1, index.flatten()).unflatten(1, index.shape)[None]  # (1, h, queries, 1 + N)
            drop = self.attn_drop.p if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, mask.to(q.dtype), drop)

        part = max(1, LARGEST_MAP // (self.num_heads * count))
        if part >= count:
            attended = attend(q, k, v, table, 0)
        else:
            pieces = []
            for start in range(0, count, part):
                inputs = q[:, :, start : start + part], k, v, table, start
                again = torch.is_grad_enabled()
                pieces.append(checkpoint(attend, *inputs, use_reentrant=False) if again else attend(*inputs))
            attended = torch.cat(pieces, dim=2)
        tokens = attended.transpose(1, 2).flatten(2)  # (B, h, 1 + N, d) -> (B, 1 + N, C)
        projected: Tensor = self.proj_drop(self.proj(tokens))
        return projected


def resize_table(table: Tensor, old: Size, new: Size) -> Tensor:
    """Resizes a table of relative position biases.

    Args:
        table: ((2 H - 1)(2 W - 1) + 3, heads). The last three rows belong to the class token and do not change.
        old: H, W.
        new: H', W'.

    Returns:
        ((2 H' - 1)(2 W' - 1) + 3, heads).

    Example:
        >>> import torch
        >>> from xcit_dense.models.relative_position import resize_table
        >>> resize_table(torch.rand(7 * 7 + 3, 2), (4, 4), (5, 6)).shape
        torch.Size([102, 2])
    """
    if old == new:
        return table
    offsets = table[:-3].T.unflatten(1, (2 * old[0] - 1, 2 * old[1] - 1))  # (heads, 2 H - 1, 2 W - 1)
    rows, columns = (
        _resizing_matrix(2 * before - 1, 2 * after - 1).to(
            table.device, torch.promote_types(table.dtype, torch.float32)
        )
        for before, after in zip(old, new)
    )
    resized = (rows @ offsets.to(rows.dtype) @ columns.T).to(table.dtype)  # (heads, 2 H' - 1, 2 W' - 1)
    return torch.cat((resized.flatten(1).T, table[-3:]))


@lru_cache(maxsize=64)
def _resizing_matrix(old: int, new: int) -> Tensor:
    """Makes the matrix that resizes one axis of a table from ``old`` to ``new`` offsets, (new, old), float64."""
    if old == new:
        return torch.eye(old, dtype=torch.float64, device="cpu")
    points = _spread(old, new)
    at = torch.arange(-(new // 2), new // 2 + 1, dtype=torch.float64, device="cpu")
    return _interpolate(points, at.clamp(points[0], points[-1]))


def _spread(old: int, new: int) -> Tensor:
    """Places ``old`` offsets in a geometric sequence on an axis of ``new`` offsets, ascending, (old,), float64."""
    low, high = 1.01, 1.5
    q = low
    while high - low > 1e-6:
        q = (low + high) / 2
        reached = sum(q**power for power in range(old // 2))
        if reached > new // 2:
            high = q
        else:
            low = q
    distances = torch.tensor([q**power for power in range(old // 2)], dtype=torch.float64, device="cpu").cumsum(0)
    return torch.cat((-distances.flip(0), distances.new_zeros(1), distances))


def _interpolate(points: Tensor, at: Tensor) -> Tensor:
    """Makes the matrix of a cubic spline whose third derivative is continuous at the second and the last but one point.

    Args:
        points: (n,), ascending.
        at: (m,), where the spline is read, within the points.

    Returns:
        (m, n): its product with the values at the points is the spline.
    """
    count = len(points)
    if count <= 3:  # a polynomial through all points
        powers = torch.arange(count, device="cpu")
        return torch.linalg.solve(points[:, None] ** powers, at[:, None] ** powers, left=False)
    # The unknowns are the second derivatives. Each inner point has one equation; the slopes agree there.
    gap = points.diff()
    equations = points.new_zeros(count, count)
    slopes = points.new_zeros(count, count)
    for i in range(1, count - 1):
        equations[i, i - 1 : i + 2] = torch.stack((gap[i - 1], 2 * (gap[i - 1] + gap[i]), gap[i]))
        slopes[i, i - 1 : i + 2] = 6 * torch.stack((1 / gap[i - 1], -1 / gap[i - 1] - 1 / gap[i], 1 / gap[i]))
    equations[0, :3] = torch.stack((gap[1], -(gap[0] + gap[1]), gap[0]))
    equations[-1, -3:] = torch.stack((gap[-1], -(gap[-2] + gap[-1]), gap[-2]))
    second = torch.linalg.solve(equations, slopes)  # (n, n): second derivatives for unit values
    left = (torch.searchsorted(points, at, right=True) - 1).clamp(0, count - 2)
    width = gap[left]
    b = (at - points[left]) / width
    a = 1 - b
    unit = torch.eye(count, dtype=points.dtype, device="cpu")
    line = a[:, None] * unit[left] + b[:, None] * unit[left + 1]
    bend = (a**3 - a)[:, None] * second[left] + (b**3 - b)[:, None] * second[left + 1]
    return line + bend * (width**2)[:, None] / 6
