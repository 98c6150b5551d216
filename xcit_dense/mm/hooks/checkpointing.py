"""Atomic checkpoints, and a checkpoint when a signal stops the run."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.evaluators import names_of_metrics
from xcit_dense.mm.runtime.console import say
from xcit_dense.mm.runtime.launch import leave
from xcit_dense.mm.runtime.resume import check_resume

INTERRUPTED = "interrupted.pth"
"""The checkpoint of a run that a signal has stopped. The next regular checkpoint replaces this file."""

STOPPING = (signal.SIGTERM, signal.SIGINT)


@HOOKS.register_module(name=["AtomicCheckpointHook", "WholeCheckpointHook"], force=True)
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` with atomic writes and a checkpoint when a signal stops the run.

    A checkpoint gets its name when all of its bytes are on the disk. Only then the hook removes an older checkpoint. A
    run that is killed, or that fills the disk, leaves the old files intact.

    On SIGTERM (schedulers send this signal) and on Ctrl-C, all processes of the run finish their step, save
    ``interrupted.pth`` and exit with status 143 or 130. During a validation, the run exits at once if the step before
    the validation is saved, and otherwise after the next step. A second Ctrl-C exits at once.

    The arguments are the arguments of ``CheckpointHook``. ``save_best='auto'`` takes the main metric of the task: the
    AP of boxes if the detector predicts boxes, else the AP of masks; mIoU for segmentation. Files in other storage, for
    example ``s3://``, are written as MMEngine writes them.
    """

    # MMEngine takes the highest value of these metrics, and of metrics whose names contain them, for the best.
    _default_greater_keys = (*CheckpointHook._default_greater_keys, "mFscore", "mRecall", "AR_")
    save_best: list[str] | None
    file_backend: Any
    keep_ckpt_ids: deque[int]
    _saved_iter = -1
    _signal = 0

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Rejects a resume from a checkpoint that contains only weights, or that does not fit the training.

        Args:
            runner: The run. A run that starts from weights without a resume is not checked.
            checkpoint: The checkpoint that MMEngine has read.

        Raises:
            UserError: The checkpoint does not contain the state of a training, or is of other classes, of another
                optimizer or of another schedule (:func:`xcit_dense.mm.runtime.resume.check_resume`).
        """
        needed = ["meta", "message_hub", *(["optimizer"] if self.save_optimizer else [])]
        missing = [name for name in needed if name not in checkpoint]
        if runner._resume and missing:
            raise UserError(
                f"{runner._load_from} does not contain the state of a training ({', '.join(missing)} missing); "
                f"write --cfg-options load_from={runner._load_from} instead of --resume to start from its weights."
            )
        if runner._resume:
            check_resume(runner, checkpoint)

    def before_train(self, runner: Any) -> None:
        """Removes incomplete files that a killed run has left, and installs signal handlers.

        Args:
            runner: The run.
        """
        self._choose_best(runner)
        super().before_train(runner)
        self._signal = 0
        self._former: dict[int, Any] = {}
        if isinstance(self.file_backend, LocalBackend):
            if dist.is_main_process():
                for part in Path(self.out_dir).glob("*.pth.part"):
                    _remove(part)
            runner.save_checkpoint = partial(save_atomic, runner.save_checkpoint)
        if threading.current_thread() is threading.main_thread():  # other threads cannot install signal handlers
            self._former = {number: signal.signal(number, self._note) for number in STOPPING}
        loaders = [runner.train_dataloader, *([runner.val_dataloader] if runner.val_loop else [])]
        for loader in loaders:
            loader.worker_init_fn = partial(_outlive_signals, loader.worker_init_fn)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Saves a checkpoint at each interval, and another checkpoint if a signal has arrived."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._signal = _largest(self._signal)
        if self._signal:
            done = runner.iter + 1
            if self._saved_iter != done:
                self._save_as(runner, INTERRUPTED, {"epoch": runner.epoch, "iter": done}, whole_state=True)
            self._stop(runner)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stops the run if a signal has arrived and the last step is saved."""
        # Only in a run of one process: the processes of a larger run may be at different images.
        if self._signal and self._saved_iter == runner.iter and not dist.is_distributed():
            self._stop(runner)

    def after_train(self, runner: Any) -> None:
        """Publishes the checkpoints as MMEngine does, and restores the former signal handlers."""
        super().after_train(runner)
        self._restore()

    def _choose_best(self, runner: Any) -> None:
        """Replaces ``save_best='auto'`` by the main metric of the task.

        MMEngine would take the first metric of the first validation, for example the AP of the first class.
        """
        names = names_of_metrics(runner.cfg) if self.save_best == ["auto"] else None
        if names:
            self.save_best = names[:1]
            self._init_rule(self.rules, self.save_best)
            say(runner.logger, f"The best checkpoint is the one with the highest {names[0]} (save_best=auto).")

    def _note(self, number: int, frame: Any) -> None:
        if number == self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._signal and dist.is_main_process():
            # A signal can interrupt a print, and Python does not allow a second print at that moment.
            os.write(2, f"{signal.Signals(number).name}: finishes this step, saves and stops.\n".encode())
        self._signal = number

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _stop(self, runner: Any) -> None:
        dist.barrier()  # when the first process ends, the launcher kills the other processes
        runner.logger.warning(
            f"Stopped by {signal.Signals(self._signal).name}. The training is saved in {self.last_ckpt}; continue with "
            "--resume."
        )
        self._restore()
        leave(128 + self._signal)
        raise SystemExit(128 + self._signal)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and step not in kept:
            kept.append(step)
            # Including the outdated checkpoints: if the run is killed before it removes them, a resumed run does.
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self._save_as(runner, self.filename_tmpl.format(step), meta)
        outdated = [INTERRUPTED]
        if self.max_keep_ckpts > 0:
            outdated += [self.filename_tmpl.format(old) for old in kept[: -self.max_keep_ckpts]]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        if dist.is_main_process():
            for name in outdated:
                path = self.file_backend.join_path(self.out_dir, name)
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)
                elif self.file_backend.isdir(path):
                    self.file_backend.rmtree(path)

    def _save_as(self, runner: Any, name: str, meta: dict[str, Any], whole_state: bool = False) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=whole_state or self.save_optimizer,
            save_param_scheduler=whole_state or self.save_param_scheduler,
            # A copy: MMEngine's runners add values to the dictionary, and FlexibleRunner counts epochs itself.
            meta=dict(meta),
            by_epoch=self.by_epoch and not whole_state,
            backend_args=self.backend_args,
            **self.args,
        )
        self._saved_iter = meta["iter"]
        pointer = Path(runner.work_dir, "last_checkpoint")
        _write(pointer, partial(_replace_text, pointer, str(self.last_ckpt)) if dist.is_main_process() else None)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        """Delays the removal of old files until the new file is saved."""
        backend = self.file_backend
        later: list[str] = []
        self.file_backend = copy(backend)
        self.file_backend.remove = later.append
        try:
            yield
        finally:
            self.file_backend = backend
        for path in later:
            backend.remove(path)


def save_atomic(save: Callable[..., None], out_dir: str, filename: str, *args: Any, **options: Any) -> None:
    """Saves a checkpoint as ``filename.part`` and renames the file when all of its bytes are on the disk.

    Args:
        save: The method ``save_checkpoint`` of one of MMEngine's runners.
        out_dir: The directory.
        filename: The name of the checkpoint in the directory.
        *args: Arguments of ``save``.
        **options: Arguments of ``save``.

    Raises:
        UserError: The checkpoint cannot be written, for example because the disk is full. The incomplete file is
            removed.
    """
    path = Path(out_dir, filename)
    part = path.with_name(f"{path.name}.part")

    def finish() -> None:
        for file in part.iterdir() if part.is_dir() else [part]:
            _sync(file)
        if path.is_dir():
            shutil.rmtree(path)
        _rename(part, path)

    try:
        _write(path, lambda: save(out_dir, part.name, *args, **options))  # each process its shard, where there are any
        _write(path, finish if dist.is_main_process() else None)
    except UserError:
        if dist.is_main_process():
            _remove(part)
        raise


def _write(path: Path, task: Callable[[], None] | None) -> None:
    """Does what writes a file, and waits for the other processes; where one fails, all do."""
    failed = None
    try:
        if task:
            task()
    except OSError as error:
        failed = error
    number = _largest(failed.errno or errno.EIO if failed else 0)
    if number:
        raise UserError(
            f"{path} could not be written: {os.strerror(number)}. The earlier checkpoints are intact; make room "
            "there, then go on with --resume."
        ) from failed


def _replace_text(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text)
        _sync(part)
        _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def _rename(part: Path, path: Path) -> None:
    part.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _largest(number: int) -> int:
    """Returns the largest number of all processes, so that all processes stop if one of them gets a signal."""
    if not dist.is_distributed():
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, "max")
    return int(numbers)


def _outlive_signals(init: Callable[[int], None] | None, worker: int) -> None:
    """Starts a data loader's worker that ignores signals from schedulers and ends with its training.

    A scheduler sends its signal to all processes. A training without workers could not finish its step. A worker that
    outlives its training would hold the training's memory, and its connections to the other processes of the run, which
    would wait.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # macOS does not have this function
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_training, args=(os.getppid(),), daemon=True).start()
    if init:
        init(worker)


def _wait_for_training(parent: int) -> None:
    training = multiprocessing.parent_process()  # with a fork server, the parent process is not the training
    while os.getppid() == parent:
        got = signal.sigtimedwait([signal.SIGTERM], 1)
        if got and training and got.si_pid == training.pid:
            break
    os._exit(0)
