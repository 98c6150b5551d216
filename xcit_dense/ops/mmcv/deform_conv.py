"""Deformable convolution with the signatures of mmcv's compiled operators, on torchvision's kernels.

The convolution reads each weight's input cell at a learned offset. Dai et al., "Deformable Convolutional Networks",
2017, and with a mask that scales each cell: Zhu et al., "Deformable ConvNets v2", 2019.

mmcv passes empty buffers, which its kernels fill (`columns`, `ones`). torchvision allocates its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import Tensor
from torch.nn import functional as F

from xcit_dense.ops.mmcv.common import working_dtype


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,  # noqa: N803  (mmcv passes these names)
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolves `input` at moved cells into `output`, as ``mmcv._ext.deform_conv_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        weight: (D, C / group, kH, kW) weights.
        offset: (B, 2 * deformable_group * kH * kW, H', W') offsets in cells, as pairs y, x.
        output: (B, D, H', W'), which is overwritten.
        columns: Not used.
        ones: Not used.
        kW: Not used; `weight` has the size of the kernel.
        kH: Not used.
        dW: Stride along a row, in cells.
        dH: Stride along a column.
        padW: Cells of zeros at the left and right.
        padH: Cells of zeros at the top and bottom.
        dilationW: Distance of the kernel's cells along a row.
        dilationH: Distance of the kernel's cells along a column.
        group: Groups of channels that are convolved separately.
        deformable_group: Groups of channels with offsets of their own.
        im2col_step: Not used; torchvision chooses how many images it treats at once.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    _forward(input, weight, offset, None, None, output, geometry)


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Computes the gradients of the features and the offsets, as ``mmcv._ext.deform_conv_backward_input`` does.

    torchvision computes the gradient of the weights in the same call. It is left in `columns`, because mmcv passes the
    same buffer to :func:`deform_conv_backward_parameters` afterwards. So a backward pass computes it only once.

    Args:
        input: As for :func:`deform_conv_forward`, like all arguments that are not listed here.
        offset: As there.
        grad_output: (B, D, H', W') gradient of the output.
        grad_input: (B, C, H, W), to which the gradient of the features is added.
        grad_offset: As `offset`, which is overwritten.
        weight: As there.
        columns: A buffer, which gets the shape of `weight` and its gradient.
        kW: Not used.
        kH: Not used.
        dW: As there.
        dH: As there.
        padW: As there.
        padH: As there.
        dilationW: As there.
        dilationH: As there.
        group: As there.
        deformable_group: As there.
        im2col_step: Not used.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    of_input, of_weight, of_offset, _, _ = _gradients(grad_output, input, weight, offset, None, None, geometry)
    grad_input += of_input
    grad_offset.copy_(of_offset)
    columns.resize_(weight.shape).copy_(of_weight)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,  # noqa: N803
    kH: int,  # noqa: N803
    dW: int,  # noqa: N803
    dH: int,  # noqa: N803
    padW: int,  # noqa: N803
    padH: int,  # noqa: N803
    dilationW: int,  # noqa: N803
    dilationH: int,  # noqa: N803
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds the gradient of the weights to `grad_weight`, as ``mmcv._ext.deform_conv_backward_parameters`` does.

    Args:
        input: As for :func:`deform_conv_forward`, like all arguments that are not listed here.
        offset: As there.
        grad_output: (B, D, H', W') gradient of the output.
        grad_weight: (D, C / group, kH, kW), to which `scale` times the gradient is added.
        columns: The buffer of :func:`deform_conv_backward_input`, or an empty one if that function was not called.
        ones: Not used.
        kW: Not used.
        kH: Not used.
        dW: As there.
        dH: As there.
        padW: As there.
        padH: As there.
        dilationW: As there.
        dilationH: As there.
        group: As there.
        deformable_group: As there.
        scale: A factor of the gradient.
        im2col_step: Not used.
    """
    if columns.shape == grad_weight.shape:
        of_weight = columns
    else:
        geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
        # The gradient of the weights does not depend on the weights, so zeros of their shape do.
        weight = torch.zeros_like(grad_weight)
        of_weight = _gradients(grad_output, input, weight, offset, None, None, geometry)[1]
    grad_weight.add_(of_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolves `input` at moved and scaled cells, as ``mmcv._ext.modulated_deform_conv_forward`` does.

    Args:
        input: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        weight: (D, C / group, kernel_h, kernel_w) weights.
        bias: (D,) biases. Not used without `with_bias`.
        ones: Not used.
        offset: (B, 2 * deformable_group * kernel_h * kernel_w, H', W') offsets in cells, as pairs y, x.
        mask: (B, deformable_group * kernel_h * kernel_w, H', W') factors of the cells.
        output: (B, D, H', W'), which is overwritten.
        columns: Not used.
        kernel_h: Not used; `weight` has the size of the kernel.
        kernel_w: Not used.
        stride_h: Stride along a column, in cells.
        stride_w: Stride along a row.
        pad_h: Cells of zeros at the top and bottom.
        pad_w: Cells of zeros at the left and right.
        dilation_h: Distance of the kernel's cells along a column.
        dilation_w: Distance of the kernel's cells along a row.
        group: Groups of channels that are convolved separately.
        deformable_group: Groups of channels with offsets and masks of their own.
        with_bias: Whether `bias` is added.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    size = output.shape[2:]
    offset, mask = _first_values(offset, size), _first_values(mask, size)
    _forward(input, weight, offset, mask, bias if with_bias else None, output, geometry)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Computes all gradients, as ``mmcv._ext.modulated_deform_conv_backward`` does.

    Args:
        input: As for :func:`modulated_deform_conv_forward`, like all arguments that are not listed here.
        weight: As there.
        bias: As there.
        ones: Not used.
        offset: As there.
        mask: As there.
        columns: Not used.
        grad_input: (B, C, H, W), to which the gradient of the features is added.
        grad_weight: As `weight`, to which the gradient is added.
        grad_bias: As `bias`, to which the gradient is added. Not used without `with_bias`.
        grad_offset: As `offset`, which is overwritten.
        grad_mask: As `mask`, which is overwritten.
        grad_output: (B, D, H', W') gradient of the output.
        kernel_h: Not used.
        kernel_w: Not used.
        stride_h: As there.
        stride_w: As there.
        pad_h: As there.
        pad_w: As there.
        dilation_h: As there.
        dilation_w: As there.
        group: As there.
        deformable_group: As there.
        with_bias: As there.
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    size = grad_output.shape[2:]
    of_input, of_weight, of_offset, of_mask, of_bias = _gradients(
        grad_output,
        input,
        weight,
        _first_values(offset, size),
        _first_values(mask, size),
        bias if with_bias else None,
        geometry,
    )
    grad_input += of_input
    grad_weight += of_weight
    _write_first_values(grad_offset, of_offset)
    _write_first_values(grad_mask, of_mask)
    if with_bias:
        grad_bias += of_bias


def _first_values(tensor: Tensor, size: torch.Size) -> Tensor:
    """Returns offsets or masks of the output's size.

    mmcv does not check the size. It reads the values of an image one after another, as if they had the output's size.
    MMDetection's DyHead passes offsets and masks of a finer level, and its published weights were trained like that.

    Args:
        tensor: (B, N, H'', W'') offsets or masks.
        size: The output's size (H', W').

    Returns:
        (B, N, H', W') values. A smaller map is returned unchanged, and torchvision refuses it.
    """
    batch, channels, *own_size = tensor.shape
    if torch.Size(own_size) == size or math.prod(own_size) < math.prod(size):
        return tensor
    return tensor.flatten(1)[:, : channels * math.prod(size)].reshape(batch, channels, *size)


def _write_first_values(tensor: Tensor, values: Tensor) -> None:
    """Writes the gradients of :func:`_first_values` into `tensor`. Values that were not read get zeros."""
    flat = values.flatten(1)
    tensor.copy_(F.pad(flat, (0, math.prod(tensor.shape[1:]) - flat.shape[1])).view(tensor.shape))


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """Returns the tensors in torchvision's order and dtype. torchvision needs tensors for mask and bias anyway."""
    dtype = working_dtype(input)
    if mask is None:
        mask = input.new_zeros(input.shape[0], 1)
    if bias is None:
        bias = input.new_zeros(weight.shape[0])
    return tuple(tensor.to(dtype).contiguous() for tensor in (input, weight, offset, mask, bias))


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
    geometry: Sequence[int],
) -> None:
    operands = _operands(input, weight, offset, mask, bias)
    output.copy_(torch.ops.torchvision.deform_conv2d(*operands, *geometry, mask is not None))


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: Sequence[int],
) -> tuple[Tensor, ...]:
    """Returns the gradients of input, weight, offset, mask and bias."""
    operands = _operands(input, weight, offset, mask, bias)
    grad_output = grad_output.to(operands[0].dtype).contiguous()
    of_input, of_weight, of_offset, of_mask, of_bias = torch.ops.torchvision._deform_conv2d_backward(
        grad_output, *operands, *geometry, mask is not None
    )
    of_offset = of_offset.masked_fill(_on_the_edge(operands[2], weight, geometry), 0)
    return of_input, of_weight, of_offset, of_mask, of_bias


def _on_the_edge(offset: Tensor, weight: Tensor, geometry: Sequence[int]) -> Tensor:
    """Returns which offsets point exactly to row -1 or column -1, in the shape of `offset`.

    The derivative has a jump there. mmcv takes the derivative from outside, which is 0. torchvision takes it from
    inside. This matters at the start of a training: then the offsets are 0, and a padded kernel reads row -1.
    """
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, _, groups = geometry
    (kernel_h, kernel_w), (height, width) = weight.shape[2:], offset.shape[2:]
    device = offset.device
    y = torch.arange(kernel_h, device=device)[:, None] * dilation_h - pad_h
    y = y + torch.arange(height, device=device) * stride_h  # (kernel_h, H')
    x = torch.arange(kernel_w, device=device)[:, None] * dilation_w - pad_w
    x = x + torch.arange(width, device=device) * stride_w  # (kernel_w, W')
    moves = offset.view(len(offset), groups, kernel_h, kernel_w, 2, height, width)
    rows = moves[:, :, :, :, 0] + y[:, None, :, None]  # (B, groups, kernel_h, kernel_w, H', W')
    columns = moves[:, :, :, :, 1] + x[:, None, :]
    return (torch.stack([rows, columns], 4) == -1).view(offset.shape)
