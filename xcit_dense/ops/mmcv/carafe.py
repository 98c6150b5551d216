"""CARAFE upsampling with the signatures of mmcv's compiled operators, in plain PyTorch.

Each output cell is a weighted sum of the input cells around it, with weights of its own. Wang et al., "CARAFE:
Content-Aware ReAssembly of FEatures", 2019.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from xcit_dense.ops.mmcv.common import working_dtype


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsamples `features` into `output`, as ``mmcv._ext.carafe_forward`` does.

    Args:
        features: (B, C, H, W) features of any floating-point dtype. The operator computes in at least float32.
        masks: (B, group_size * kernel_size**2, H * scale_factor, W * scale_factor) weights.
        rfeatures: A buffer of the size of `features`. It gets the features, because mmcv passes this buffer to
            :func:`carafe_backward`.
        routput: Not used.
        rmasks: Not used.
        output: (B, C, H * scale_factor, W * scale_factor), which is overwritten.
        kernel_size: Input cells along a side that contribute to an output cell. It is odd.
        group_size: Groups of channels with weights of their own.
        scale_factor: Output cells for each input cell, along a side.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of features and masks, as ``mmcv._ext.carafe_backward`` does.

    Args:
        top_grad: (B, C, H * scale_factor, W * scale_factor) gradient of the output.
        rfeatures: (B, C, H, W) features from :func:`carafe_forward`.
        masks: As for :func:`carafe_forward`.
        rtop_grad: Not used.
        rbottom_grad_hs: Not used.
        rbottom_grad: Not used.
        rmask_grad: Not used.
        bottom_grad: (B, C, H, W), which is overwritten with the gradient of the features.
        mask_grad: As `masks`, which is overwritten with the gradient of the masks.
        kernel_size: As for :func:`carafe_forward`.
        group_size: As there.
        scale_factor: As there.
    """
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Upsamples `features` into `output`, as ``mmcv._ext.carafe_naive_forward`` does.

    Args:
        features: As for :func:`carafe_forward`, like all arguments.
        masks: As there.
        output: As there.
        kernel_size: As there.
        group_size: As there.
        scale_factor: As there.
    """
    dtype = working_dtype(features)
    total = torch.zeros(_split(output, group_size, scale_factor).shape, dtype=dtype, device=output.device)
    padded = _pad(features.to(dtype), kernel_size, group_size)
    for cells, weights in _taps(padded, masks.to(dtype), kernel_size, group_size, scale_factor):
        total.addcmul_(cells[..., None, :, None], weights)
    output.copy_(total.view(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of features and masks, as ``mmcv._ext.carafe_naive_backward`` does.

    Args:
        top_grad: As for :func:`carafe_backward`, like all arguments.
        features: (B, C, H, W) features.
        masks: As there.
        bottom_grad: As there.
        mask_grad: As there.
        kernel_size: As there.
        group_size: As there.
        scale_factor: As there.
    """
    dtype = working_dtype(features)
    grad = _split(top_grad.to(dtype), group_size, scale_factor)  # (B, G, C / G, H, s, W, s)
    padded, masks = _pad(features.to(dtype), kernel_size, group_size), masks.to(dtype)
    grad_padded, grad_masks = torch.zeros_like(padded), torch.zeros_like(masks)
    # Views of the gradients, in the order of the features' and masks' views.
    of_cells = _taps(grad_padded, grad_masks, kernel_size, group_size, scale_factor)
    for (cells, weights), (grad_cells, grad_weights) in zip(
        _taps(padded, masks, kernel_size, group_size, scale_factor), of_cells
    ):
        grad_cells += (grad * weights).sum((-3, -1))
        grad_weights += (grad * cells[..., None, :, None]).sum(2, keepdim=True)
    half, (height, width) = kernel_size // 2, features.shape[2:]
    inner = grad_padded[..., half : half + height, half : half + width]
    bottom_grad.copy_(inner.reshape(bottom_grad.shape))
    mask_grad.copy_(grad_masks)


def _split(tensor: Tensor, group_size: int, scale_factor: int) -> Tensor:
    """Returns (B, C, H * s, W * s) as (B, G, C / G, H, s, W, s)."""
    batch, channels, height, width = tensor.shape
    return tensor.reshape(
        batch,
        group_size,
        channels // group_size,
        height // scale_factor,
        scale_factor,
        width // scale_factor,
        scale_factor,
    )


def _pad(features: Tensor, kernel_size: int, group_size: int) -> Tensor:
    """Returns (B, G, C / G, H + k - 1, W + k - 1) features with zeros around them."""
    half = kernel_size // 2
    return F.pad(features.unflatten(1, (group_size, -1)), (half, half, half, half))


def _taps(
    padded: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (B, G, C / G, H, W) cells and (B, G, 1, H, s, W, s) weights of each place under the kernel, as views."""
    height, width = (length - kernel_size + 1 for length in padded.shape[-2:])
    for row, column in itertools.product(range(kernel_size), range(kernel_size)):
        cells = padded[..., row : row + height, column : column + width]
        weights = masks.unflatten(1, (group_size, -1))[:, :, row * kernel_size + column]
        weights = weights.unflatten(3, (width, scale_factor)).unflatten(2, (height, scale_factor))
        yield cells, weights[:, :, None]
