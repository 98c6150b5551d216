"""The cross entropy of enlarged logits, without the enlarged logits in memory.

A segmentor enlarges its logits to the size of the labels and applies the cross entropy. For 150 classes, the enlarged
logits, their logarithms of probabilities and the gradients of both are the largest tensors of a training step. Here the
loss and its gradient are computed in strips of rows. Only the gradient at the size of the logits is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from xcit_dense.ops.autocast import without_autocast
from xcit_dense.ops.devices import is_gpu
from xcit_dense.ops.transforms import is_traced
from xcit_dense.ops.upsampled_conv import enlargement

# The enlarged logits of a strip. Larger strips need more memory, and smaller strips more calls. A GPU has more memory,
# and calls take more of its time.
_ELEMENTS_OF_STRIP = 2**22
_ELEMENTS_ON_GPU = 2**24


def upsampled_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = -100, align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Computes the cross entropy of logits that are enlarged to the size of the labels by bilinear interpolation.

    The loss can be differentiated once.

    Args:
        logits: (B, classes, h, w).
        labels: (B, H, W) int64, in [0, classes) or ``ignore_index``.
        ignore_index: The label of pixels that do not count.
        align_corners: As for ``F.interpolate``.

    Returns:
        The sum of the losses of all pixels, and the number of pixels whose largest logit is the logit of their label.

    Example:
        >>> import torch
        >>> from xcit_dense.ops.upsampled_loss import upsampled_cross_entropy
        >>> loss, correct = upsampled_cross_entropy(torch.zeros(1, 2, 2, 2), torch.zeros(1, 4, 4, dtype=torch.int64))
        >>> round(loss.item(), 4), correct.item()
        (11.0904, 16)
    """
    if is_traced():
        y = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
        loss = F.cross_entropy(y, labels, ignore_index=ignore_index, reduction="sum")
        return loss, _count_correct(y, labels, ignore_index)
    loss, correct = _CrossEntropy.apply(logits, labels, ignore_index, align_corners)
    return loss, correct


def _count_correct(scores: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    return ((scores.detach().argmax(1) == labels) & (labels != ignore_index)).sum()


class _CrossEntropy(torch.autograd.Function):
    """The forward pass computes the gradient of the logits too, because both need the enlarged logits."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        needs = ctx.needs_input_grad[0]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        images, classes = logits.shape[:2]
        height, width = labels.shape[1:]
        on_cpu = enlargement(logits.shape[2], height, align_corners, dtype, torch.device("cpu"))  # (H, h)
        vertical = on_cpu.to(logits.device)
        loss = logits.new_zeros((), dtype=dtype)
        correct = labels.new_zeros(())
        gradient = torch.zeros_like(logits, dtype=dtype) if needs else None
        elements = _ELEMENTS_ON_GPU if is_gpu(logits.device) else _ELEMENTS_OF_STRIP
        rows = max(1, elements // (images * classes * width))
        with without_autocast(logits.device):
            for start in range(0, height, rows):
                matrix, of_strip = vertical[start : start + rows], labels[:, start : start + rows]
                seen = on_cpu[start : start + rows].any(0).nonzero()  # a value from a GPU would wait for the GPU
                first, last = int(seen[0]), int(seen[-1]) + 1
                y = matrix[:, first:last] @ logits[:, :, first:last].to(dtype)  # (B, classes, rows, w)
                z = F.interpolate(y, of_strip.shape[1:], mode="bilinear", align_corners=align_corners)
                logs = z.log_softmax(1)  # (B, classes, rows, W)
                loss += F.nll_loss(logs, of_strip, ignore_index=ignore_index, reduction="sum")
                correct += _count_correct(logs, of_strip, ignore_index)
                if gradient is not None:
                    # The gradient of the cross entropy is the probability, minus one for the label.
                    counted = of_strip != ignore_index
                    grad = logs.exp_().scatter_add_(
                        1, of_strip.where(counted, 0)[:, None], -torch.ones_like(logs[:, :1])
                    )
                    grad *= counted[:, None]
                    grad = torch.ops.aten.upsample_bilinear2d_backward(grad, z.shape[2:], y.shape, align_corners)
                    gradient[:, :, first:last] += matrix[:, first:last].mT @ grad
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return scale_saved_gradient(ctx, grad), None, None, None


def scale_saved_gradient(ctx: Any, grad: Tensor) -> Tensor:
    """Returns the gradient that the forward pass of a loss has computed, times the gradient of the loss.

    Args:
        ctx: The context of the loss. The gradient is its saved tensor, and ``dtype`` is the dtype of the logits.
        grad: The gradient of the loss, a scalar.
    """
    (gradient,) = ctx.saved_tensors
    # The product comes before the cast, because a gradient of fp16 can underflow without the scale of a GradScaler.
    return (gradient * grad).to(ctx.dtype)
