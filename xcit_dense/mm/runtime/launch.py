"""Starts and ends runs of one process or several, with or without GPUs."""

from __future__ import annotations

import atexit
import copy
import os
import sys
from pathlib import Path
from typing import Any

import mmcv.cnn  # noqa: F401  registers the norm layers
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, is_distributed
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from mmengine.runner import FlexibleRunner, Runner

from xcit_dense.mm.config.checks import check_launcher
from xcit_dense.mm.config.dataset_class import is_a
from xcit_dense.mm.config.loops import settle_workers
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.mm.loading import use_checked_loading
from xcit_dense.mm.patches.no_gpu import without_set_device
from xcit_dense.mm.runtime.console import logs_prints, prints_to_log, quiet, say
from xcit_dense.mm.runtime.report import ReportHook
from xcit_dense.mm.runtime.same_size import SameSizeBatchesHook
from xcit_dense.mm.runtime.shared_images import check_shared_images, share_samples, shares_images


def make_runner(
    config: Config, resume_from: str | Path | None = None, verbose: bool = False
) -> Runner | FlexibleRunner:
    """Makes MMEngine's runner of a config and joins the other processes of the run, if there are any.

    Without a GPU, the processes communicate through gloo, and each SyncBN of the model becomes BN, because PyTorch has
    SyncBN for GPUs only. The config needs no change.

    The runner prints a few lines: what it trains on what, losses, metrics, and where its files are. Its log file
    contains everything.

    Args:
        config: A complete config. If the config has a ``strategy`` (see :mod:`xcit_dense.mm.runtime.fsdp`), the
            strategy distributes the model.
        resume_from: The checkpoint of the training to resume. The config that the run writes does not contain this
            path, so that the config can be trained again or tested.
        verbose: Print everything that goes to the log file.

    Returns:
        The runner. Call its method ``train()``, ``val()`` or ``test()``.

    Raises:
        UserError: As :func:`xcit_dense.mm.config.checks.check_launcher` and
            :func:`xcit_dense.mm.runtime.shared_images.check_shared_images`.

    Example::

        from xcit_dense.mm.config.load import load_config
        from xcit_dense.mm.runtime.launch import make_runner

        config = load_config("configs/detection/mask_rcnn_xcit_n12_p8_shapes.py")
        config.work_dir = "work_dirs/demo"
        make_runner(config).train()
    """
    check_launcher(config)
    is_shared = shares_images(config)
    if is_shared:
        check_shared_images(config)
    changes = settle_workers(config)
    # MMEngine keeps visualizers by name. A second run in this process would log into the directory of the first run.
    (config.get("visualizer") or {}).pop("name", None)
    kind: type[Any] = FlexibleRunner if config.get("strategy") else Runner
    if not verbose:
        kind = _QuietFlexibleRunner if config.get("strategy") else _QuietRunner
    if config.get("launcher", "none") != "none" and get_device() == "cpu":
        with without_set_device():
            runner = kind.from_cfg(without_gpus(config))
    else:
        runner = kind.from_cfg(config)
    # The runner has written its config, in which samplers and mmcv's loader keep their names.
    if is_shared and runner._train_dataloader is not None:
        share_samples(runner)
    for loader in (runner._train_dataloader, runner._val_dataloader, runner._test_dataloader):
        use_checked_loading(loader)
    runner.register_hook(ReportHook())
    runner.register_hook(SameSizeBatchesHook())
    for change in changes:
        say(runner.logger, change)
    runner.register_hook(_MeetBeforeTest())
    if resume_from is not None:
        runner._load_from, runner._resume = str(resume_from), True
    return runner


def without_gpus(config: Config) -> Config:
    """Copies the config of a distributed run and changes the copy for processes without a GPU.

    Args:
        config: A complete config.

    Returns:
        The copy: nccl is gloo, SyncBN is BN, and the model's wrapper has no device.

    Example:
        >>> config = Config({"model": {"norm_cfg": {"type": "SyncBN"}}})
        >>> changed = without_gpus(config)
        >>> changed.model.norm_cfg.type, changed.env_cfg.dist_cfg.backend
        ('BN', 'gloo')
        >>> config.model.norm_cfg.type
        'SyncBN'
    """
    config = copy.deepcopy(config)
    if config.get("env_cfg", {}).get("dist_cfg", {}).get("backend", "nccl") == "nccl":
        config.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})
    wrapper = {
        "type": "MMDistributedDataParallel",
        "broadcast_buffers": False,
        "find_unused_parameters": config.get("find_unused_parameters", False),
    }
    config.model_wrapper_cfg = {**wrapper, **(config.get("model_wrapper_cfg") or {}), "device_ids": None}
    use_plain_norms(config)
    return config


def use_plain_norms(config: Config) -> None:
    """Puts BN in the place of each SyncBN of the model. The weights of both have the same names.

    Args:
        config: A complete config, which is changed.
    """
    for part in dicts_in(config.get("model")):
        if is_a(config, part, "SyncBatchNorm", MODELS):
            part["type"] = "BN"


def leave(status: int = 0) -> None:
    """Ends this process if it is one of several; otherwise does nothing.

    At an ordinary exit, Python may stop before gloo's threads. The threads then abort the process, and the launcher
    kills the other processes.

    Args:
        status: The exit status.
    """
    if is_distributed():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _MeetBeforeTest(Hook):
    """Lets all processes build their evaluators before one of them writes results.

    MMSegmentation's IoUMetric makes ``output_dir`` on rank 0 only. Another process that has its first result earlier
    would not find the directory.
    """

    def before_test(self, runner: Any) -> None:
        barrier()


class _Quiet:
    """Sends what MMEngine and the data sets print to the log file; a base of the runners below."""

    logger: Any

    def build_train_loop(self, loop: Any) -> Any:
        with prints_to_log(self.logger):
            return super().build_train_loop(loop)  # type: ignore[misc]

    def build_val_loop(self, loop: Any) -> Any:
        with prints_to_log(self.logger):
            return super().build_val_loop(loop)  # type: ignore[misc]

    def build_test_loop(self, loop: Any) -> Any:
        with prints_to_log(self.logger):
            return super().build_test_loop(loop)  # type: ignore[misc]

    def load_or_resume(self) -> None:
        with prints_to_log(self.logger):
            super().load_or_resume()  # type: ignore[misc]

    def build_evaluator(self, evaluator: Any) -> Any:
        built = super().build_evaluator(evaluator)  # type: ignore[misc]
        built.evaluate = logs_prints(self.logger, built.evaluate)
        return built


class _QuietRunner(_Quiet, Runner):
    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        logger = super().build_logger(*args, **kwargs)
        quiet(logger)
        return logger


class _QuietFlexibleRunner(_Quiet, FlexibleRunner):
    def build_strategy(self, *args: Any, **kwargs: Any) -> Any:
        strategy = super().build_strategy(*args, **kwargs)
        quiet(strategy.logger)
        return strategy
