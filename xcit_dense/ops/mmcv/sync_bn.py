"""Synchronized batch norm with the signatures of mmcv's compiled operators, in plain PyTorch.

Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1. mmcv's own Python code exchanges the statistics between the
processes, between the calls of these operators. Statistics and gradients of parameters are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Writes the mean of each channel, as ``mmcv._ext.sync_bn_forward_mean`` does.

    Args:
        input: (B, C, N) features of any floating-point dtype, with B > 0.
        mean: (C,), which is overwritten.
    """
    mean.copy_(input.to(mean.dtype).mean((0, 2)))


@torch.no_grad()
def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Writes the variance of each channel around a mean, as ``mmcv._ext.sync_bn_forward_var`` does.

    Args:
        input: As for :func:`sync_bn_forward_mean`.
        mean: (C,) mean over all processes.
        var: (C,), which is overwritten.
    """
    var.copy_((input.to(var.dtype) - mean[:, None]).square().mean((0, 2)))


@torch.no_grad()
def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalizes the features and updates the running statistics, as ``mmcv._ext.sync_bn_forward_output`` does.

    Args:
        input: (B, C, N) features of any floating-point dtype. B may be 0.
        mean: (C,) mean over all processes.
        var: (C,) variance over all processes.
        weight: (C,) factor after the normalization.
        bias: (C,) added after the factor.
        running_mean: (C,), which is moved towards the mean, or None.
        running_var: (C,), which is moved towards the unbiased variance, or None.
        norm: (B, C, N) float32, which is overwritten with the normalized features.
        std: (C,), which is overwritten with the standard deviation.
        output: (B, C, N), which is overwritten.
        eps: Added to the variance.
        momentum: The share of the new statistics, in [0, 1].
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.to(norm.dtype) - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    if running_mean is not None and running_var is not None:
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * count / (count - 1) if count > 1 else var
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (unbiased - running_var)


@torch.no_grad()
def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Writes the gradients of the parameters, as ``mmcv._ext.sync_bn_backward_param`` does.

    Args:
        grad_output: (B, C, N) gradient of the output.
        norm: (B, C, N) the normalized features.
        grad_weight: (C,), which is overwritten.
        grad_bias: (C,), which is overwritten.
    """
    gradient = grad_output.to(norm.dtype)
    grad_weight.copy_((gradient * norm).sum((0, 2)))
    grad_bias.copy_(gradient.sum((0, 2)))


@torch.no_grad()
def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Writes the gradient of the features, as ``mmcv._ext.sync_bn_backward_data`` does.

    Args:
        grad_output: (B, C, N) gradient of the output.
        weight: (C,) factor after the normalization.
        grad_weight: (C,) gradient of the factor, the mean over the processes.
        grad_bias: (C,) gradient of the bias, the mean over the processes.
        norm: (B, C, N) the normalized features.
        std: (C,) the standard deviation.
        grad_input: (B, C, N), which is overwritten.
    """
    count = grad_output.shape[0] * grad_output.shape[2]
    # The mean and the variance depend on all values of the channel.
    through_statistics = (norm * grad_weight[:, None] + grad_bias[:, None]) / count
    grad_input.copy_((grad_output.to(norm.dtype) - through_statistics) * (weight / std)[:, None])
