"""What the processes of one image exchange: sums over all processes, and tokens of neighbours.

Both are functions of autograd. Every process must call them in the same order, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

Group = Any  # torch.distributed.ProcessGroup, which not every build of PyTorch has, or None for all processes


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Sums tensors of one shape over all processes.

    The gradient of the result is summed too, because each process uses the result.

    Args:
        x: The tensor of this process.
        group: The processes. By default all.

    Returns:
        The sum, the same in each process.
    """
    return _Sum.apply(x, group)


def add_halos(x: Tensor, halo: int, group: Group = None) -> Tensor:
    """Adds the nearest tokens of the two neighbours to the tokens of a process.

    Args:
        x: The tokens of this process, (1, N, C), with N of at least ``halo``.
        halo: Number of tokens that a neighbour gives.
        group: The processes, in the order of their tokens. By default all.

    Returns:
        (1, above + N + below, C). ``above`` is ``halo``, but 0 in the first process. ``below`` is ``halo``, but 0 in
        the last process.
    """
    return _AddHalos.apply(x, halo, group)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _all_reduced(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(grad, ctx.group), None


class _AddHalos(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, halo: int, group: Group) -> Tensor:
        ctx.halo, ctx.group = halo, group
        above, below = _swap(x[:, :halo], x[:, -halo:], group)
        return torch.cat((above, x, below), dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # A token that a neighbour used has a second gradient, from the neighbour.
        halo, group = ctx.halo, ctx.group
        first, last = _is_first_and_last(group)
        above, below = 0 if first else halo, 0 if last else halo
        own = grad[:, above : grad.shape[1] - below].clone()  # (1, N, C)
        from_above, from_below = _swap(grad[:, :halo], grad[:, -halo:], group)
        own[:, : from_above.shape[1]] += from_above
        own[:, own.shape[1] - from_below.shape[1] :] += from_below
        return own, None, None


def _all_reduced(x: Tensor, group: Group) -> Tensor:
    total = x.contiguous().clone()
    distributed.all_reduce(total, group=group)
    return total


def _is_first_and_last(group: Group) -> tuple[bool, bool]:
    rank = distributed.get_rank(group)
    return rank == 0, rank == distributed.get_world_size(group) - 1


def _swap(to_above: Tensor, to_below: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Sends tokens (1, n, C) to both neighbours, and receives as many. Without a neighbour, receives none."""
    first, last = _is_first_and_last(group)
    rank = distributed.get_rank(group)
    received = []
    operations = []
    for tokens, missing, neighbour in ((to_above, first, rank - 1), (to_below, last, rank + 1)):
        buffer = torch.empty_like(tokens[:, :0] if missing else tokens, memory_format=torch.contiguous_format)
        received.append(buffer)
        if missing:
            continue
        peer = neighbour if group is None else distributed.get_global_rank(group, neighbour)
        operations.append(distributed.P2POp(distributed.isend, tokens.contiguous(), peer, group))
        operations.append(distributed.P2POp(distributed.irecv, buffer, peer, group))
    if operations:
        for work in distributed.batch_isend_irecv(operations):
            work.wait()
    return received[0], received[1]
