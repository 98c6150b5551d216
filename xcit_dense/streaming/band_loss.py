"""Losses of the pixels of a band, without the enlarged logits of all its pixels in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xcit_dense.ops.autocast import without_autocast
from xcit_dense.ops.upsampled_loss import scale_saved_gradient
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.maps import Enlarge, cut

_STRIP = 32
"""Rows of pixels of a strip. A strip also enlarges a few more rows, whose share is smaller in a larger strip."""

LossOfRows = Callable[[Tensor, range], tuple[Tensor, Tensor]]


def sum_over_rows(
    enlarge: Enlarge, logits: Tensor, have: Window, rows: range, loss_of_rows: LossOfRows
) -> tuple[Tensor, Tensor]:
    """Sums a loss over some rows of enlarged logits, strip by strip.

    The forward pass computes the gradient of the logits too. Only this gradient is kept. The sum can be differentiated
    once.

    Args:
        enlarge: The map of the enlarged logits.
        logits: A window of the source of ``enlarge`` that contains what the rows need, (B, classes, h, w).
        have: The window.
        rows: The rows of ``enlarge``.
        loss_of_rows: A function of the enlarged logits (B, classes, n, W) of n rows, and of these rows. It returns the
            sum of the loss, and a number that has no gradient.

    Returns:
        The sum of the loss, and the sum of the numbers.

    Example:
        >>> import torch
        >>> from xcit_dense.rasters.window import Window
        >>> from xcit_dense.streaming.band_loss import sum_over_rows
        >>> from xcit_dense.streaming.maps import Enlarge, Kept
        >>> logits = torch.ones(1, 2, 3, 3)
        >>> count = lambda enlarged, rows: (enlarged.sum(), torch.tensor(len(rows)))
        >>> sum_over_rows(Enlarge(Kept(logits), 9, 9), logits, Window(0, 0, 3, 3), range(9), count)
        (tensor(162.), tensor(9))
    """
    return _SumOverRows.apply(logits, enlarge, have, rows, loss_of_rows)


class _SumOverRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, enlarge: Enlarge, have: Window, rows: range, loss_of_rows: LossOfRows
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        gradient = torch.zeros_like(logits, dtype=dtype)
        total = logits.new_zeros((), dtype=dtype)
        number = logits.new_zeros((), dtype=torch.int64)
        for start in range(rows.start, rows.stop, _STRIP):
            strip = range(start, min(start + _STRIP, rows.stop))
            window = Window(strip.start, 0, len(strip), enlarge.width)
            (need,) = enlarge.needs(window)
            source = cut(logits, have, need).to(dtype).requires_grad_()
            with torch.enable_grad(), without_autocast(logits.device):
                of_strip, counted = loss_of_rows(enlarge.compute(window, [source]), strip)
            cut(gradient, have, need).add_(torch.autograd.grad(of_strip, source)[0])
            total += of_strip.detach()
            number += counted
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(number)
        return total, number

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return scale_saved_gradient(ctx, grad), None, None, None, None
