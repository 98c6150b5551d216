"""Multi-scale deformable attention with the signature of mmcv's compiled operator.

Source: Zhu et al., "Deformable DETR", equation 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, grid_sample

from xcit_dense.ops.mmcv.common import working_dtype


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sums values at sampled points with weights, as ``mmcv._ext.ms_deform_attn_forward`` does.

    Args:
        value: (B, K, heads, D) values at the cells of all levels, of any floating-point dtype. The operator computes in
            at least float32.
        value_spatial_shapes: (L, 2) int64 rows and columns of each level.
        value_level_start_index: (L,) int64 index of each level's first cell.
        sampling_locations: (B, Q, heads, L, P, 2) points x, y. (0, 0) is the upper left corner of a level, and (1, 1)
            its lower right corner. Values outside a level are 0.
        attention_weights: (B, Q, heads, L, P) weights of the points.
        im2col_step: Not used: it only divides the work of the compiled operator.

    Returns:
        (B, Q, heads * D) sums, in the dtype of `value`.

    Example:
        >>> value = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)  # one level of 2 x 2 cells
        >>> middle, weight = torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1)
        >>> ms_deform_attn_forward(value, torch.tensor([[2, 2]]), torch.tensor([0]), middle, weight, 64).item()
        2.5
    """
    dtype = working_dtype(value)
    # The sizes are needed as numbers. One list of all of them waits for the GPU once.
    levels = torch.cat([value_spatial_shapes, value_level_start_index[:, None]], 1).tolist()
    # On a GPU, the gradient of grid_sample is not deterministic.
    attend = _attend_by_bags if torch.are_deterministic_algorithms_enabled() else _attend_by_grids
    return attend(value.to(dtype), levels, sampling_locations.to(dtype), attention_weights.to(dtype)).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Writes the gradients of all inputs, as ``mmcv._ext.ms_deform_attn_backward`` does.

    Args:
        value: As for :func:`ms_deform_attn_forward`.
        value_spatial_shapes: As for :func:`ms_deform_attn_forward`.
        value_level_start_index: As for :func:`ms_deform_attn_forward`.
        sampling_locations: As for :func:`ms_deform_attn_forward`.
        attention_weights: As for :func:`ms_deform_attn_forward`.
        grad_output: (B, Q, heads * D) gradient of the sums.
        grad_value: The gradient of `value`, which is overwritten.
        grad_sampling_loc: The gradient of `sampling_locations`, which is overwritten.
        grad_attn_weight: The gradient of `attention_weights`, which is overwritten.
        im2col_step: Not used.
    """
    inputs = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            inputs[0], value_spatial_shapes, value_level_start_index, inputs[1], inputs[2], im2col_step
        )
    gradients = torch.autograd.grad(output, inputs, grad_output)
    for result, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients):
        result.copy_(gradient)


def _attend_by_grids(value: Tensor, levels: list[list[int]], locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, width = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    total = value.new_zeros(batch * heads, width, queries)
    for level, (rows, columns, start) in enumerate(levels):
        # (B, rows * columns, heads, D) -> (B * heads, D, rows, columns)
        cells = value[:, start : start + rows * columns].permute(0, 2, 3, 1)
        cells = cells.reshape(batch * heads, width, rows, columns)
        # (B, Q, heads, P, 2) -> (B * heads, Q, P, 2), in [-1, 1]
        grid = 2 * locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2) - 1
        sampled = grid_sample(cells, grid, align_corners=False)  # (B * heads, D, Q, P)
        # (B, Q, heads, P) -> (B * heads, 1, Q, P)
        weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        total = total + (sampled * weight).sum(-1)
    # (B * heads, D, Q) -> (B, Q, heads * D)
    return total.reshape(batch, heads * width, queries).transpose(1, 2).contiguous()


def _attend_by_bags(value: Tensor, levels: list[list[int]], locations: Tensor, weights: Tensor) -> Tensor:
    batch, cells, heads, width = value.shape
    queries = locations.shape[1]
    image = torch.arange(batch, device=value.device)[:, None, None, None]
    head = torch.arange(heads, device=value.device)[:, None]
    indices, factors = [], []  # of the four cells around each point: (B, Q, heads, P) for each level and corner
    for level, (rows, columns, start) in enumerate(levels):
        x = locations[:, :, :, level, :, 0] * columns - 0.5
        y = locations[:, :, :, level, :, 1] * rows - 0.5
        left, top = x.detach().floor(), y.detach().floor()
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            cell = torch.where(inside, start + row * columns + column, 0).long()
            indices.append((image * cells + cell) * heads + head)
            near = (1 - (y - row).abs()) * (1 - (x - column).abs())
            factors.append(torch.where(inside, near * weights[:, :, :, level], 0))
    entries = 4 * weights.shape[3] * weights.shape[4]
    # Each bag is one query of one head. (B, Q, heads, entries) -> (B * Q * heads, entries)
    summed = embedding_bag(
        torch.cat(indices, -1).reshape(-1, entries),
        value.reshape(-1, width),
        per_sample_weights=torch.cat(factors, -1).reshape(-1, entries),
        mode="sum",
    )
    return summed.reshape(batch, queries, heads * width)
