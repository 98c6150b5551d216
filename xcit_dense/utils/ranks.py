"""Which process of a run this is, by what its launcher says in the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


_RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")  # the last two, until MMEngine has set the first


def is_rank_zero() -> bool:
    """Whether this is the only process of a run, or the first of several, as launchers number them."""
    return next((os.environ[name] for name in _RANKS if name in os.environ), "0") == "0"


def is_local_rank_zero() -> bool:
    """Whether this is the only process of the run on this machine, or the first of several."""
    # Not dist.get_local_rank(), which wants a process group that MMEngine's runner does not make.
    return os.environ.get("LOCAL_RANK", "0") == "0"
