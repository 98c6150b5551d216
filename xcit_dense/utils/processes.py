"""What several processes of one work share. They have joined each other through ``torch.distributed``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

from xcit_dense.errors import UserError

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """The rank of this process, and the number of processes that have joined each other."""
    group = _process_group()
    return (0, 1) if group is None else (group.get_rank(), group.get_world_size())


def wait() -> None:
    """Waits until all processes are here."""
    group = _process_group()
    if group is not None:
        group.barrier()


def on_rank_zero(function: Callable[[], None]) -> None:
    """Calls a function on rank 0, while the other processes wait.

    Args:
        function: The function.

    Raises:
        UserError: The function raised this error. All processes raise the error.
    """
    rank, _ = rank_and_world()
    fault: list[str | None] = [None]
    if rank == 0:
        try:
            function()
        except UserError as error:
            fault = [str(error)]
    group = _process_group()
    if group is not None:
        group.broadcast_object_list(fault)
    if fault[0]:
        raise UserError(fault[0])


def in_all(function: Callable[[], T], group: Any = None) -> T:
    """Calls a function in several processes. If the function fails in one process, it fails in all processes.

    Args:
        function: The function.
        group: The processes, a group of ``torch.distributed``. By default all.

    Returns:
        What the function returns in this process.

    Raises:
        UserError: The function raised this error, or ``OSError``, in this process or in another one.
    """
    fault: str | None = None
    result: T | None = None
    try:
        result = function()
    except (UserError, OSError) as error:
        fault = str(error)
    processes = _process_group()
    faults = [fault]
    if processes is not None:
        faults *= processes.get_world_size(group)
        processes.all_gather_object(faults, fault, group=group)
    for one in faults:
        if one is not None:
            raise UserError(one)
    return cast(T, result)


def _process_group() -> Any:
    """PyTorch's module of distributed functions if this process has joined others, or else None."""
    if "torch" not in sys.modules:  # only PyTorch joins processes
        return None
    from torch import distributed

    return distributed if distributed.is_available() and distributed.is_initialized() else None
