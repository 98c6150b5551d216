"""Batch norm in training mode over a map whose rows are in several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.ops.autocast import without_autocast
from xcit_dense.streaming.exchange import Group, all_reduced


def normalise_band(norm: _BatchNorm, x: Tensor, positions: int, group: Group = None) -> Tensor:
    """Applies a batch norm in training mode to the rows of this process, with the statistics of the complete map.

    Every process must call this function. Running statistics are updated with the same values in each process. The
    result can be differentiated once.

    Args:
        norm: The batch norm.
        x: The rows of this process, (B, C, rows, W).
        positions: Positions of the complete maps, B H W.
        group: The processes. By default all.

    Returns:
        (B, C, rows, W).

    Example:
        >>> import tempfile, torch
        >>> from torch import distributed, nn
        >>> from xcit_dense.streaming.norm import normalise_band
        >>> store = f"file://{tempfile.mkdtemp()}/store"
        >>> distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        >>> norm, x = nn.BatchNorm2d(4), torch.rand(2, 4, 3, 5)
        >>> torch.allclose(normalise_band(norm, x, positions=30), nn.BatchNorm2d(4)(x), atol=1e-5)
        True
        >>> distributed.destroy_process_group()
    """
    with without_autocast(x.device):
        y, mean, variance = _BandNorm.apply(x, norm.weight, norm.bias, positions, norm.eps, group)
    count, running_mean, running_variance = norm.num_batches_tracked, norm.running_mean, norm.running_var
    if count is not None and running_mean is not None and running_variance is not None:
        with torch.no_grad():
            count.add_(1)
            momentum = 1 / int(count) if norm.momentum is None else norm.momentum
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_variance.lerp_((variance * (positions / (positions - 1))).to(running_variance), momentum)
    return y


class _BandNorm(torch.autograd.Function):
    """Computes (x - mean) * inverse * weight + bias, where inverse is 1 / sqrt(variance + eps)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, positions: int, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean = all_reduced(x.sum((0, 2, 3), dtype=dtype), group) / positions  # (C,)
        centred = x - mean[:, None, None]
        variance = all_reduced(centred.square_().sum((0, 2, 3)), group) / positions  # (C,)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.positions, ctx.group = positions, group
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors  # mean, inverse: (C,)
        scaled = (x - mean[:, None, None]).mul_(inverse[:, None, None])  # the output before weight and bias
        of_bias = grad.sum((0, 2, 3), dtype=mean.dtype)
        of_weight = (grad * scaled).sum((0, 2, 3))
        # The parameters get the part of this process. The map needs the sums over the complete map.
        sums = all_reduced(torch.stack((of_bias, of_weight)), ctx.group) / ctx.positions  # (2, C)
        gain = inverse if weight is None else inverse * weight
        of_x = (grad - sums[0][:, None, None] - scaled * sums[1][:, None, None]).mul_(gain[:, None, None])
        if weight is None:
            return of_x.to(x.dtype), None, None, None, None, None
        return of_x.to(x.dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None, None
