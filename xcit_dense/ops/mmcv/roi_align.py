"""RoIAlign with the signature of mmcv's compiled operator."""

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
    """Pools the features inside boxes into `output`, as ``mmcv._ext.roi_align_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels of the image.
        output: (K, C, aligned_height, aligned_width), which is overwritten.
        argmax_y: Not used; only maximum pooling needs it.
        argmax_x: Not used; only maximum pooling needs it.
        aligned_height: Rows of bins of an RoI.
        aligned_width: Columns of bins of an RoI.
        spatial_scale: Feature cells per pixel.
        sampling_ratio: Samples along each side of a bin, or 0 for the number of cells along the side.
        pool_mode: 1 for the average of the samples.
        aligned: Whether the centres of cells have half-integer coordinates.

    Raises:
        NotImplementedError: ``pool_mode`` is 0, which means maximum pooling.
    """
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv operator 'roi_align' with pool_mode='max' is not in xcit_dense's stand-in on torchvision; write "
            f"pool_mode='avg'. {REMEDY}"
        )
    dtype = working_dtype(input)
    # Under deterministic algorithms, torchvision's Python function replaces its kernel by a slow form that needs much
    # memory. The kernel is deterministic, so the registered operator is called directly.
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
    """Writes the gradient of the features into `grad_input`, as ``mmcv._ext.roi_align_backward`` does.

    Args:
        grad_output: (K, C, aligned_height, aligned_width) gradient of the pooled features.
        rois: As for :func:`roi_align_forward`.
        argmax_y: Not used.
        argmax_x: Not used.
        grad_input: (B, C, H, W), which is overwritten.
        aligned_height: As for :func:`roi_align_forward`.
        aligned_width: As for :func:`roi_align_forward`.
        spatial_scale: As for :func:`roi_align_forward`.
        sampling_ratio: As for :func:`roi_align_forward`.
        pool_mode: 1 for the average. :func:`roi_align_forward` refuses other values.
        aligned: As for :func:`roi_align_forward`.
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
