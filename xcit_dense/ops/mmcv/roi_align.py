"""RoIAlign with the signature of mmcv's compiled operator."""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from xcit_dense.ops.mmcv.bilinear import corners, interpolate, sample_points
from xcit_dense.ops.mmcv.common import working_dtype
from xcit_dense.ops.mmcv.roi_sums import Pooling, can_sum_rows, sum_rows, sum_rows_backward

_MAXIMUM = 0
"""The `pool_mode` of the maximum. 1 means the average."""

_LOWEST = -10000.0
"""The maximum of a bin without samples."""

_ROIS_AT_ONCE = 16
"""The maximum keeps all samples of this number of RoIs in memory."""


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pools the features inside boxes into `output`, as ``mmcv._ext.roi_align_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image.
        output: (K, C, aligned_height, aligned_width), which is overwritten.
        argmax_y: As `output` for the maximum: the row of the greatest sample, which is overwritten. Else not used.
        argmax_x: As `argmax_y`, the column.
        aligned_height: Rows of bins of an RoI.
        aligned_width: Columns of bins of an RoI.
        spatial_scale: Feature cells per pixel.
        sampling_ratio: Samples along each side of a bin, or 0 for the number of cells along the side.
        pool_mode: 1 for the average of the samples, 0 for the maximum. As in mmcv, a maximum is at least -10000, and
            -10000 if the bin does not have a sample.
        aligned: Whether the centres of cells have half-integer coordinates.
    """
    dtype = working_dtype(input)
    features, boxes = input.detach().to(dtype), rois.detach().to(dtype)
    if pool_mode == _MAXIMUM:
        chunks = (tensor.split(_ROIS_AT_ONCE) for tensor in (boxes, output, argmax_y, argmax_x))
        for part, *places in zip(*chunks):
            results = _maximum(features, part, output, spatial_scale, sampling_ratio, aligned)
            for place, values in zip(places, results):
                place.copy_(values)
        return

    pooling = Pooling((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    if can_sum_rows(features, boxes, pooling):
        output.copy_(sum_rows(features, boxes, pooling).permute(0, 3, 1, 2))
        return
    # Under deterministic algorithms, torchvision's Python function replaces its kernel by a slow form that needs much
    # memory. The kernel is deterministic, so the registered operator is called directly.
    output.copy_(
        torch.ops.torchvision.roi_align(
            features, boxes, spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the gradient of the features into `grad_input`, as ``mmcv._ext.roi_align_backward`` does.

    Args:
        grad_output: (K, C, aligned_height, aligned_width) gradient of the pooled features.
        rois: As for :func:`roi_align_forward`.
        argmax_y: The rows from :func:`roi_align_forward` for the maximum. Else not used.
        argmax_x: The columns.
        grad_input: (B, C, H, W), which is overwritten.
        aligned_height: As for :func:`roi_align_forward`.
        aligned_width: As for :func:`roi_align_forward`.
        spatial_scale: As for :func:`roi_align_forward`.
        sampling_ratio: As for :func:`roi_align_forward`.
        pool_mode: As for :func:`roi_align_forward`.
        aligned: As for :func:`roi_align_forward`.
    """
    dtype = working_dtype(grad_output)
    if pool_mode == _MAXIMUM:
        grad_input.copy_(_gradient_of_maximum(grad_output.to(dtype), rois, argmax_y, argmax_x, grad_input))
        return
    gradient, boxes = grad_output.to(dtype), rois.to(dtype)
    pooling = Pooling((aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    if can_sum_rows(grad_input, boxes, pooling):
        grad_input.copy_(sum_rows_backward(gradient.permute(0, 2, 3, 1), grad_input.shape, boxes, pooling))
        return
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            gradient,
            boxes,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _maximum(
    features: Tensor, rois: Tensor, output: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the greatest samples of (K, 5) RoIs, their rows and their columns, each of the shape of `output`."""
    bins = output.shape[2:]
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - shift).unbind(1)
    coordinates, has_sample = [], []
    for start, end, count in ((y1, y2, bins[0]), (x1, x2, bins[1])):
        side = end - start
        if not aligned:
            side = side.clamp(min=1)
        points, valid = sample_points(start[:, None], side / count, count, sampling_ratio)
        coordinates.append(points)
        has_sample.append(valid)
    y, x = coordinates[0][:, :, None, :, None], coordinates[1][:, None, :, None, :]
    y, x = torch.broadcast_tensors(y, x)  # (K, rows, columns, samples, samples)
    values = interpolate(features, rois[:, 0].long(), *corners(y, x, *features.shape[2:]))
    valid = has_sample[0][:, :, None] & has_sample[1][:, None, :]  # (K, samples, samples)
    values = values.masked_fill(~valid[:, None, None, :, :, None], _LOWEST)
    # One more sample with the lowest value and the coordinates -1 stands for a bin without a greater sample.
    values = torch.nn.functional.pad(values.flatten(3, 4), (0, 0, 1, 0), value=_LOWEST)
    greatest, index = values.max(3)  # (K, rows, columns, C)
    y, x = (torch.nn.functional.pad(points.flatten(3), (1, 0), value=-1) for points in (y, x))
    y, x = (torch.where(greatest > _LOWEST, points.gather(3, index), -1) for points in (y, x))
    return greatest.movedim(3, 1), y.movedim(3, 1), x.movedim(3, 1)


def _gradient_of_maximum(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor
) -> Tensor:
    """Returns the gradient of the features, which the greatest samples give to the four cells around them."""
    _, channels, height, width = grad_input.shape
    dtype = grad_output.dtype
    cells, weights = corners(argmax_y.to(dtype), argmax_x.to(dtype), height, width)  # (K, C, rows, columns, 4)
    weights = weights * (argmax_y != -1)[..., None]
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)  # (K, C)
    index = plane[:, :, None, None, None] * (height * width) + cells
    gradient = grad_output.new_zeros(grad_input.numel())
    gradient.index_add_(0, index.flatten(), (grad_output[..., None] * weights).flatten())
    return gradient.view(grad_input.shape)
