"""Runs of one process or of many, on GPUs or without."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.runner import FlexibleRunner, Runner
from torch import cuda

from ..errors import UserError
from .tree import dicts_in

# What each launcher tells its processes, and how its users start them.
_LAUNCHERS = {
    "pytorch": (("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "torchrun --nproc-per-node 8 TOOL"),
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID"), "srun --ntasks 8 python TOOL"),
    "mpi": (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR"),
        "mpirun -n 8 -x MASTER_ADDR=localhost python TOOL",
    ),
}


def make_runner(config: Config, resume_from: str | Path | None = None) -> Runner | FlexibleRunner:
    """Makes MMEngine's runner of a config and joins the run's other processes, if there are any.

    Without a GPU, processes speak by gloo, and each SyncBN of the model, which PyTorch has for GPUs alone, becomes BN;
    nothing need be configured for it.

    Args:
        config: A whole config. With a ``strategy``, as :mod:`xcit_dense.mm.strategies` has them, it is that which
            distributes the model.
        resume_from: The checkpoint of the training that goes on. The config that the run writes does not name it, so
            that it can be trained anew, or tested.

    Raises:
        UserError: As :func:`check_launcher`.
    """
    check_launcher(config)
    make = FlexibleRunner.from_cfg if config.get("strategy") else Runner.from_cfg
    is_alone_or_on_gpus = config.get("launcher", "none") == "none" or get_device() != "cpu"
    with nullcontext() if is_alone_or_on_gpus else _without_gpus(config):
        runner = make(config)
    if resume_from is not None:
        runner._load_from, runner._resume = str(resume_from), True
    return runner


def check_launcher(config: Config) -> None:
    """Checks that the processes were started in the way that ``config.launcher`` says.

    Args:
        config: A whole config.

    Raises:
        UserError: They were not, or a process has no GPU on a machine with GPUs.
    """
    launcher = config.get("launcher", "none")
    if launcher == "none":
        if (config.get("strategy") or {}).get("type", "").endswith("FSDPStrategy"):
            raise UserError(
                f"{config.strategy.type} shards a model over several processes; start them with "
                f"{_LAUNCHERS['pytorch'][1]} --launcher pytorch."
            )
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"torchrun has started {os.environ['WORLD_SIZE']} processes, but with --launcher none each would run "
                "alone; write --launcher pytorch."
            )
        return
    variables, command = _LAUNCHERS[launcher]
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} is for processes that were started by it, but {', '.join(missing)} is not set; "
            f"start them with {command} --launcher {launcher}, or write --launcher none for a single process."
        )
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), cuda.device_count()
    if get_device() == "cuda" and rank >= count:
        raise UserError(
            f"Process {rank} of this machine (counted from 0) finds {count} GPUs; start at most {count} processes a "
            "machine, and let each see all of its GPUs (with Slurm --gpus-per-node, not --gpus-per-task)."
        )


def leave(status: int = 0) -> None:
    """Ends a process whose work is done, if it is one of several; else does nothing.

    At an orderly end Python may be gone before gloo's threads, which then abort the process, and the launcher ends the
    others with it.

    Args:
        status: The exit status.
    """
    if is_distributed():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _without_gpus(config: Config) -> AbstractContextManager[Any]:
    """Makes the config one for processes without a GPU; in the context MMEngine gives them none."""
    if config.get("env_cfg", {}).get("dist_cfg", {}).get("backend", "nccl") == "nccl":
        config.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})
    wrapper = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": config.get("find_unused_parameters", False),
    }
    config.model_wrapper_cfg = {**wrapper, **(config.get("model_wrapper_cfg") or {}), "device_ids": None}
    for part in dicts_in(config.get("model")):
        if part.get("type") == "SyncBN":
            part["type"] = "BN"  # whose weights have the same names
    return mock.patch.object(cuda, "set_device")
