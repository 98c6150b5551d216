"""RoIAlign of rotated boxes with the signature of mmcv's compiled operator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from xcit_dense.ops.mmcv.bilinear import corners
from xcit_dense.ops.mmcv.common import working_dtype


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Pools the features inside rotated boxes into `output`, as ``mmcv._ext.roi_align_rotated_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        rois: (K, 6) index of the image, centre x, centre y, width, height in pixels of the image, angle in radians.
        output: (K, C, pooled_height, pooled_width), which is overwritten.
        pooled_height: Rows of bins of an RoI.
        pooled_width: Columns of bins of an RoI.
        spatial_scale: Feature cells per pixel.
        sampling_ratio: Samples along each side of a bin, or 0 for the number of cells along the side.
        aligned: Whether the centres of cells have half-integer coordinates.
        clockwise: Whether a positive angle turns the x-axis towards the y-axis.

    Raises:
        ValueError: A width or height is negative, and `aligned` is set.
    """
    dtype = working_dtype(input)
    bins = (pooled_height, pooled_width)
    cells = input.to(dtype).permute(0, 2, 3, 1).reshape(-1, input.shape[1])  # (B * H * W, C)
    for members, indices, weights in _samples(
        rois.to(dtype), input.shape, bins, spatial_scale, sampling_ratio, aligned, clockwise
    ):
        pooled = embedding_bag(indices, cells, per_sample_weights=weights, mode="sum")  # (K' * bins, C)
        output[members] = pooled.reshape(-1, *bins, input.shape[1]).permute(0, 3, 1, 2).to(output)


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Writes the gradient of the features into `grad_input`, as ``mmcv._ext.roi_align_rotated_backward`` does.

    Args:
        grad_output: (K, C, pooled_height, pooled_width) gradient of the pooled features.
        rois: As for :func:`roi_align_rotated_forward`.
        grad_input: (B, C, H, W), which is overwritten.
        pooled_height: As for :func:`roi_align_rotated_forward`.
        pooled_width: As for :func:`roi_align_rotated_forward`.
        spatial_scale: As for :func:`roi_align_rotated_forward`.
        sampling_ratio: As for :func:`roi_align_rotated_forward`.
        aligned: As for :func:`roi_align_rotated_forward`.
        clockwise: As for :func:`roi_align_rotated_forward`.
    """
    dtype = working_dtype(grad_output)
    batch, channels, height, width = grad_input.shape
    total = grad_output.new_zeros(batch * height * width, channels, dtype=dtype)
    for members, indices, weights in _samples(
        rois.to(dtype),
        grad_input.shape,
        (pooled_height, pooled_width),
        spatial_scale,
        sampling_ratio,
        aligned,
        clockwise,
    ):
        gradient = grad_output[members].to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)  # (K' * bins, C)
        # One sample of all bins at a time: all samples at once would need much memory.
        for index, weight in zip(indices.unbind(1), weights.unbind(1)):
            total.index_add_(0, index, gradient * weight[:, None])
    grad_input.copy_(total.reshape(batch, height, width, channels).permute(0, 3, 1, 2))


def _samples(
    rois: Tensor,
    shape: torch.Size,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields the cells of the samples of RoIs with equally many samples.

    Yields:
        Indices of the RoIs (K',), indices of cells (K' * bins, 4 * samples), and the weights of the cells.
    """
    size = rois[:, [4, 3]] * spatial_scale  # (K, 2): height and width in cells
    if aligned:
        if (size < 0).any():
            raise ValueError(
                "an RoI of roi_align_rotated has a negative width or height; write positive ones, or aligned=False"
            )
    else:
        size = size.clamp(min=1)
    bin_size = size / size.new_tensor(bins)
    counts = bin_size.ceil().long() if sampling_ratio <= 0 else torch.full_like(size, sampling_ratio, dtype=torch.long)
    for count in counts.unique(dim=0):
        members = (counts == count).all(1).nonzero()[:, 0]
        rows, columns = (max(number, 1) for number in count.tolist())
        some = rois[members]
        # Positions of the samples along a side of the RoI, as a part of the side: (bins * samples,)
        y, x = (
            (torch.arange(bins[axis] * samples, device=rois.device, dtype=rois.dtype) + 0.5) / (bins[axis] * samples)
            - 0.5
            for axis, samples in enumerate((rows, columns))
        )
        y, x = y * size[members, :1], x * size[members, 1:]  # (K', bins * samples), from the centre in cells
        y, x = y[:, :, None], x[:, None, :]
        angle = (some[:, 5] if clockwise else -some[:, 5])[:, None, None]
        centre = some[:, 1:3, None, None] * spatial_scale - (0.5 if aligned else 0)
        y, x = (  # (K', rows of samples, columns of samples)
            y * angle.cos() + x * angle.sin() + centre[:, 1],
            x * angle.cos() - y * angle.sin() + centre[:, 0],
        )
        indices, weights = corners(y, x, *shape[2:])
        indices = indices + some[:, 0].long()[:, None, None, None] * shape[2] * shape[3]
        # An RoI of no area has no samples, and its sum is 0.
        weights = weights / (rows * columns) * float(count.min() > 0)
        yield members, _by_bin(indices, bins, rows, columns), _by_bin(weights, bins, rows, columns)


def _by_bin(values: Tensor, bins: tuple[int, int], rows: int, columns: int) -> Tensor:
    """(K, bins * rows, bins * columns, 4) -> (K * bins * bins, rows * columns * 4)."""
    values = values.reshape(len(values), bins[0], rows, bins[1], columns, 4)
    return values.transpose(2, 3).reshape(-1, rows * columns * 4)
