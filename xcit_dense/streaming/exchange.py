"""What the processes of one image exchange: sums over all processes, rows of other processes, and random draws.

Sums and rows are functions of autograd. Every process must call all functions in the same order, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from xcit_dense.errors import UserError

Group = Any  # torch.distributed.ProcessGroup, which not every build of PyTorch has, or None for all processes


def check_connected() -> None:
    """Checks that this process has joined other processes.

    Raises:
        UserError: It has not.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise UserError(
            "The processes are not connected; start them with torchrun and call torch.distributed.init_process_group "
            "first."
        )


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


def move_rows(
    x: Tensor,
    have: Sequence[range],
    want: Sequence[range],
    group: Group = None,
    device: torch.device | None = None,
) -> Tensor:
    """Gives each process the rows that it wants, from the processes that have them.

    A row may be wanted by several processes. Its gradient is then the sum of their gradients.

    Args:
        x: The rows of this process, (rows, ...).
        have: The rows of each process. Together they are all rows, in order, each row once.
        want: The rows that each process wants.
        group: The processes. By default all.
        device: The device of the result. NCCL needs a GPU. By default the device of the rows.

    Returns:
        The rows that this process wants, (rows, ...).
    """
    return _MoveRows.apply(x, have, want, group, x.device if device is None else device)


def draw_once(x: Tensor, group: Group = None) -> Tensor:
    """Gives each process the tensor of the first process, so that random numbers are those of one draw.

    Args:
        x: The tensor of this process, of one shape in all processes, without gradients. It is overwritten.
        group: The processes. By default all.

    Returns:
        The tensor of the first process.
    """
    first = 0 if group is None else distributed.get_global_rank(group, 0)
    distributed.broadcast(x, first, group)
    return x


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return all_reduced(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduced(grad, ctx.group), None


class _MoveRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, have: Sequence[range], want: Sequence[range], group: Group, device: torch.device
    ) -> Tensor:
        ctx.have, ctx.want, ctx.group = have, want, group
        return torch.cat(_swap(x, have, want, group, device))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        own = ctx.have[distributed.get_rank(ctx.group)]
        total = grad.new_zeros(len(own), *grad.shape[1:])
        # The gradients return the way that the rows came.
        for rows, part in zip(ctx.want, _swap(grad, ctx.want, ctx.have, ctx.group, grad.device)):
            total[_part(own, _common(own, rows))] += part
        return total, None, None, None, None


def all_reduced(x: Tensor, group: Group = None) -> Tensor:
    """Sums tensors of one shape over all processes, without gradients.

    Args:
        x: The tensor of this process.
        group: The processes. By default all.
    """
    total = x.contiguous().clone()
    distributed.all_reduce(total, group=group)
    return total


def _swap(x: Tensor, have: Sequence[range], want: Sequence[range], group: Group, device: torch.device) -> list[Tensor]:
    """Sends to each process what it wants of the rows of this process, and receives from each process as well.

    Returns:
        The rows that this process wants of each process, in the order of the processes.
    """
    rank = distributed.get_rank(group)
    own = have[rank]
    received = []
    operations = []
    for process, (theirs, wanted) in enumerate(zip(have, want)):
        if process == rank:
            received.append(x[_part(own, _common(own, wanted))].to(device))
            continue
        peer = process if group is None else distributed.get_global_rank(group, process)
        sent = x[_part(own, _common(own, wanted))].to(device).contiguous()
        buffer = sent.new_empty(len(_common(theirs, want[rank])), *x.shape[1:])
        received.append(buffer)
        if len(sent):
            operations.append(distributed.P2POp(distributed.isend, sent, peer, group))
        if len(buffer):
            operations.append(distributed.P2POp(distributed.irecv, buffer, peer, group))
    if operations:
        for work in distributed.batch_isend_irecv(operations):
            work.wait()
    return received


def _common(first: range, second: range) -> range:
    """Returns the rows that two ranges share."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


def _part(rows: range, part: range) -> slice:
    """Returns the index of a part of some rows in a tensor of these rows."""
    return slice(part.start - rows.start, part.stop - rows.start) if part else slice(0)
