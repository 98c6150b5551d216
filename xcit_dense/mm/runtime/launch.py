"""Runs of one process or of many, on GPUs or without."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.runner import FlexibleRunner, Runner

from xcit_dense.mm.config.checks import check_launcher
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.mm.loading import use_checked_loading
from xcit_dense.mm.patches.no_gpu import without_set_device


def make_runner(config: Config, resume_from: str | Path | None = None) -> Runner | FlexibleRunner:
    """Makes MMEngine's runner of a config and joins the run's other processes, if there are any.

    Without a GPU, processes speak by gloo, and each SyncBN of the model, which PyTorch has for GPUs alone, becomes BN;
    nothing need be configured for it.

    Args:
        config: A whole config. With a ``strategy``, as :mod:`xcit_dense.mm.runtime.fsdp` has them, it is that which
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
    # The runner has written its config, in which mmcv's loader keeps its name.
    for loader in (runner._train_dataloader, runner._val_dataloader, runner._test_dataloader):
        use_checked_loading(loader)
    if resume_from is not None:
        runner._load_from, runner._resume = str(resume_from), True
    return runner


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
    return without_set_device()
