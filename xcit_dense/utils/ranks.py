"""The rank of this process, as its launcher has set it in the environment."""

from __future__ import annotations

import os

# torchrun sets RANK, and so does MMEngine. Slurm and Open MPI set the other variables before MMEngine sets RANK.
_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")


def is_rank_zero() -> bool:
    """Returns whether this process has rank 0, or is not one of several processes."""
    for name in _RANKS:
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def is_local_rank_zero() -> bool:
    """Returns whether this process has rank 0 on its machine, or is not one of several processes."""
    # dist.get_local_rank() would need a process group that MMEngine's runner does not make.
    return os.environ.get("LOCAL_RANK", "0") == "0"
