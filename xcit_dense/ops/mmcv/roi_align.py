"""RoIAlign as mmcv's compiled operator."""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor

from xcit_dense.ops.mmcv.common import REMEDY, working_dtype


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
    """Pool features under boxes into `output`, as ``mmcv._ext.roi_align_forward`` does.

    Args:
        input: (B, C, H, W) features; any floating type, pooled in float32 at least.
        rois: (K, 5) image index, x1, y1, x2, y2, in pixels of the picture.
        output: (K, C, aligned_height, aligned_width); overwritten.
        argmax_y: not used (of maximum pooling only).
        argmax_x: not used.
        aligned_height: rows of bins of an RoI.
        aligned_width: columns of bins of an RoI.
        spatial_scale: feature cells per pixel.
        sampling_ratio: samples along each side of a bin; 0 for as many as it has cells.
        pool_mode: 1, the average of the samples.
        aligned: whether cell centres lie at half-integer coordinates.

    Raises:
        NotImplementedError: if `pool_mode` is 0, the maximum.
    """
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv operator 'roi_align' with pool_mode='max' is not in xcit_dense's stand-in on torchvision; write "
            f"pool_mode='avg'. {REMEDY}"
        )
    dtype = working_dtype(input)
    # The registered operator, as in the backward: torchvision's Python wrapper leaves its kernel
    # for a slow, memory-hungry form under deterministic algorithms, yet the kernel is one.
    output.copy_(
        torch.ops.torchvision.roi_align(
            input.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
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
    """Write the features' gradient into `grad_input`, as ``mmcv._ext.roi_align_backward`` does.

    Args:
        grad_output: (K, C, aligned_height, aligned_width) gradient of the pooled features.
        rois: see :func:`roi_align_forward`, as for all that follow but `grad_input`.
        argmax_y: not used.
        argmax_x: not used.
        grad_input: (B, C, H, W); overwritten.
        aligned_height: rows of bins of an RoI.
        aligned_width: columns of bins of an RoI.
        spatial_scale: feature cells per pixel.
        sampling_ratio: samples along each side of a bin, or 0.
        pool_mode: 1, the average; the forward refused any other.
        aligned: whether cell centres lie at half-integer coordinates.
    """
    dtype = working_dtype(grad_output)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )
