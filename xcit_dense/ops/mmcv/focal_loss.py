"""Focal losses with the signatures of mmcv's compiled operators.

Source: Lin et al., "Focal Loss for Dense Object Detection", equation 5 and appendix A. mmcv reduces the loss and
multiplies the gradient by the gradient of the output.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from xcit_dense.ops.mmcv.common import working_dtype


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the focal loss of binary classifiers into `output`, as ``mmcv._ext.sigmoid_focal_loss_forward`` does.

    Args:
        input: (N, C) logits of any floating-point dtype. The operator computes in at least float32.
        target: (N,) int64 class of each row. A class outside [0, C - 1] is the background: all classifiers should say
            no.
        weight: (C,) weight of each class, by the target of the row; or empty. With weights, each target must be in
            [0, C - 1].
        output: (N, C), which is overwritten with the losses.
        gamma: The exponent, at least 0.
        alpha: The weight of the target's classifier, in [0, 1]. The weight of all others is 1 - alpha.

    Example:
        >>> loss = torch.zeros(1, 2)
        >>> sigmoid_focal_loss_forward(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(0), loss, 2.0, 0.25)
        >>> [round(value, 4) for value in loss[0].tolist()]  # 0.25 and 0.75, times 0.5² ln 2
        [0.0433, 0.13]
    """
    x = input.to(working_dtype(input))
    p, q = x.sigmoid(), (-x).sigmoid()
    positive = -alpha * q**gamma * logsigmoid(x)
    negative = -(1 - alpha) * p**gamma * logsigmoid(-x)
    output.copy_(_by_target(positive, negative, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the slope of each loss into `grad_input`, as ``mmcv._ext.sigmoid_focal_loss_backward`` does.

    Args:
        input: As for :func:`sigmoid_focal_loss_forward`.
        target: As for :func:`sigmoid_focal_loss_forward`.
        weight: As for :func:`sigmoid_focal_loss_forward`.
        grad_input: (N, C), which is overwritten.
        gamma: As for :func:`sigmoid_focal_loss_forward`.
        alpha: As for :func:`sigmoid_focal_loss_forward`.
    """
    x = input.to(working_dtype(input))
    p, q = x.sigmoid(), (-x).sigmoid()
    positive = -alpha * q**gamma * (q - gamma * p * logsigmoid(x))
    negative = (1 - alpha) * p**gamma * (p - gamma * q * logsigmoid(-x))
    grad_input.copy_(_by_target(positive, negative, target, weight))


def _by_target(positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    classes = torch.arange(positive.shape[1], device=target.device)
    chosen = torch.where(target[:, None] == classes, positive, negative)
    return chosen * weight.index_select(0, target)[:, None] if weight.numel() else chosen


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the focal loss of a softmax classifier into `output`, as ``mmcv._ext.softmax_focal_loss_forward`` does.

    Args:
        softmax: (N, C) probabilities of any floating-point dtype. The operator computes in at least float32.
        target: (N,) int64 class of each row, at most C - 1. The loss of a row with a negative class is 0.
        weight: (C,) weight of each class, or empty.
        output: (N,), which is overwritten with the losses.
        gamma: The exponent, at least 0.
        alpha: The factor of all losses.

    Example:
        >>> loss = torch.zeros(1)
        >>> softmax_focal_loss_forward(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.zeros(0), loss, 2.0, 1.0)
        >>> round(loss.item(), 4)  # 0.5² ln 2
        0.1733
    """
    p, factor = _of_target(softmax, target, weight, alpha)
    output.copy_(-factor * (1 - p) ** gamma * p.log())


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the gradient of the logits into `grad_input`, as ``mmcv._ext.softmax_focal_loss_backward`` does.

    Args:
        softmax: As for :func:`softmax_focal_loss_forward`.
        target: As for :func:`softmax_focal_loss_forward`.
        weight: As for :func:`softmax_focal_loss_forward`.
        buff: (N,), which is overwritten with the slope of each loss in the logarithm of the target's probability.
        grad_input: (N, C), which is overwritten.
        gamma: As for :func:`softmax_focal_loss_forward`.
        alpha: As for :func:`softmax_focal_loss_forward`.
    """
    p, factor = _of_target(softmax, target, weight, alpha)
    # The smallest number in place of 0 avoids 0 * inf, where the slope is 0.
    q = (1 - p).clamp(min=torch.finfo(torch.float32).tiny)
    slope = factor * (gamma * q ** (gamma - 1) * p * p.log() - q**gamma)
    classes = torch.arange(softmax.shape[1], device=target.device)
    buff.copy_(slope)
    grad_input.copy_(slope[:, None] * ((target[:, None] == classes).to(slope) - softmax.to(slope)))


def _of_target(softmax: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Returns the probability of each row's target and the factor of its loss, both (N,)."""
    softmax = softmax.to(working_dtype(softmax))
    known = target.clamp(min=0)
    p = softmax.gather(1, known[:, None])[:, 0].clamp(min=torch.finfo(torch.float32).tiny)
    factor = alpha * (target >= 0).to(p)
    return p, factor * weight.to(p).index_select(0, known) if weight.numel() else factor
