"""Deformable RoI pooling with the signatures of mmcv's compiled operators, in plain PyTorch.

RoIAlign whose bins move by learned offsets. Dai et al., "Deformable Convolutional Networks", 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcit_dense.ops.mmcv.bilinear import corners, interpolate, sample_points
from xcit_dense.ops.mmcv.common import working_dtype

_ROIS_AT_ONCE = 16
"""All samples of this number of RoIs are in memory together."""


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pools the features inside moved bins into `output`, as ``mmcv._ext.deform_roi_pool_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image.
        offset: (K, 2, pooled_height, pooled_width) offsets x, y of the bins, or an empty tensor for no offsets.
        output: (K, C, pooled_height, pooled_width), which is overwritten.
        pooled_height: Rows of bins of an RoI.
        pooled_width: Columns of bins of an RoI.
        spatial_scale: Feature cells per pixel.
        sampling_ratio: Samples along each side of a bin, or 0 for the number of cells along the side.
        gamma: An offset of 1 moves a bin by `gamma` times the side of the RoI.
    """
    dtype = working_dtype(input)
    features = input.detach().to(dtype)
    for part in torch.arange(len(rois), device=rois.device).split(_ROIS_AT_ONCE):
        moves = offset.detach()[part].to(dtype) if offset.numel() else None
        output[part] = _pool(
            features, rois[part].to(dtype), moves, (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma
        ).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Writes the gradients of features and offsets, as ``mmcv._ext.deform_roi_pool_backward`` does.

    The gradient of an offset is the derivative of the pooled values. mmcv's kernel does not compute the derivative for
    samples at the border of the map, where the value does not change across the border.

    Args:
        grad_output: (K, C, pooled_height, pooled_width) gradient of the pooled features.
        input: As for :func:`deform_roi_pool_forward`, like all arguments that are not listed here.
        rois: As there.
        offset: As there.
        grad_input: (B, C, H, W), which is overwritten.
        grad_offset: As `offset`, which is overwritten.
        pooled_height: As there.
        pooled_width: As there.
        spatial_scale: As there.
        sampling_ratio: As there.
        gamma: As there.
    """
    dtype = working_dtype(input)
    features = input.detach().to(dtype).requires_grad_()
    total = torch.zeros_like(features)
    for part in torch.arange(len(rois), device=rois.device).split(_ROIS_AT_ONCE):
        moves = offset.detach()[part].to(dtype).requires_grad_() if offset.numel() else None
        with torch.enable_grad():
            pooled = _pool(
                features,
                rois[part].to(dtype),
                moves,
                (pooled_height, pooled_width),
                spatial_scale,
                sampling_ratio,
                gamma,
            )
        sources = (features,) if moves is None else (features, moves)
        of_features, *of_moves = torch.autograd.grad(pooled, sources, grad_output[part].to(dtype))
        total += of_features
        if of_moves:
            grad_offset[part] = of_moves[0].to(grad_offset.dtype)
    grad_input.copy_(total)


def _pool(
    features: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """Returns the (K, C, rows, columns) averages of the samples in the bins of (K, 5) RoIs."""
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)
    y, in_row = sample_points(y1[:, None], (y2 - y1) / bins[0], bins[0], sampling_ratio)
    x, in_column = sample_points(x1[:, None], (x2 - x1) / bins[1], bins[1], sampling_ratio)
    y, x = y[:, :, None, :, None], x[:, None, :, None, :]
    if offset is not None:
        move = gamma * torch.stack([x2 - x1, y2 - y1], 1)[:, :, None, None] * offset  # (K, 2, rows, columns)
        y, x = y + move[:, 1, :, :, None, None], x + move[:, 0, :, :, None, None]
    y, x = torch.broadcast_tensors(y, x)  # (K, rows, columns, samples, samples)
    values = interpolate(features, rois[:, 0].long(), *corners(y, x, *features.shape[2:]))
    valid = in_row[:, :, None] & in_column[:, None]  # (K, samples, samples)
    total = (values * valid[:, None, None, :, :, None]).sum((3, 4))
    return (total / valid.sum((1, 2)).clamp(min=1).view(-1, 1, 1, 1)).movedim(3, 1)
