"""Checkpoints that can be relied on: written whole or not at all, and once more when a run is told to stop."""

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
from xcit_dense.mm.runtime.launch import leave

INTERRUPTED = "interrupted.pth"
"""The checkpoint of a run that was told to stop, until there is a later one."""

STOPPING = (signal.SIGTERM, signal.SIGINT)


@HOOKS.register_module(name=["AtomicCheckpointHook", "WholeCheckpointHook"], force=True)
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, whose files are whole at any moment, and which saves when the run is told to stop.

    A checkpoint has its name once all of it is on the disk, and only then an older one is removed: a run that is
    killed, or whose disk is full, leaves what was there before. On SIGTERM, as schedulers send it, and on Ctrl-C the
    run finishes its step, saves ``interrupted.pth`` and exits with status 143 or 130, all processes of it. In a
    validation it exits at once if the step before it was saved, else after the step that follows. A second Ctrl-C does
    not wait.

    Takes the arguments of ``CheckpointHook``. What lies elsewhere, at ``s3://`` say, is written as MMEngine does.
    """

    file_backend: Any
    keep_ckpt_ids: deque[int]
    _saved_iter = -1
    _signal = 0

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on from weights alone.

        Args:
            runner: The run. One that only starts from weights is not checked.
            checkpoint: What MMEngine has read.

        Raises:
            UserError: The checkpoint has no state of a training.
        """
        needed = ["meta", "message_hub", *(["optimizer"] if self.save_optimizer else [])]
        missing = [name for name in needed if name not in checkpoint]
        if runner._resume and missing:
            raise UserError(
                f"{runner._load_from} holds no state of a training to go on from (it has no {', '.join(missing)}); "
                f"write --cfg-options load_from={runner._load_from} in place of --resume to begin from its weights."
            )

    def before_train(self, runner: Any) -> None:
        """Removes what a killed run has left half written, and listens for signals.

        Args:
            runner: The run.
        """
        super().before_train(runner)
        self._signal = 0
        self._former: dict[int, Any] = {}
        if isinstance(self.file_backend, LocalBackend):
            if dist.is_main_process():
                for part in Path(self.out_dir).glob("*.pth.part"):
                    _remove(part)
            runner.save_checkpoint = partial(save_atomic, runner.save_checkpoint)
        if threading.current_thread() is threading.main_thread():  # signals come to no other
            self._former = {number: signal.signal(number, self._note) for number in STOPPING}
        loaders = [runner.train_dataloader, *([runner.val_dataloader] if runner.val_loop else [])]
        for loader in loaders:
            loader.worker_init_fn = partial(_outlive_signals, loader.worker_init_fn)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Saves as the interval says, and once more if the run is to stop.

        Args:
            runner: The run.
            batch_idx: Not used here, as what follows.
            data_batch: Not used.
            outputs: Not used.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._signal = _largest(self._signal)
        if self._signal:
            done = runner.iter + 1
            if self._saved_iter != done:
                self._save_as(runner, INTERRUPTED, {"epoch": runner.epoch, "iter": done}, whole_state=True)
            self._stop(runner)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stops, if the run is to and has nothing to save.

        Args:
            runner: The run.
            batch_idx: Not used, as what follows.
            data_batch: Not used.
            outputs: Not used.
        """
        # One process alone: others may be at another picture, or at none.
        if self._signal and self._saved_iter == runner.iter and not dist.is_distributed():
            self._stop(runner)

    def after_train(self, runner: Any) -> None:
        """Publishes as MMEngine does, and listens no longer.

        Args:
            runner: The run.
        """
        super().after_train(runner)
        self._restore()

    def _note(self, number: int, frame: Any) -> None:
        if number == self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if not self._signal and dist.is_main_process():
            # Not by print, which may be under way.
            os.write(2, f"{signal.Signals(number).name}: finishes this step, saves and stops.\n".encode())
        self._signal = number

    def _restore(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _stop(self, runner: Any) -> None:
        dist.barrier()  # a launcher ends the others when the first is gone
        runner.logger.warning(
            f"Stopped by {signal.Signals(self._signal).name}. All is saved in {self.last_ckpt}; --resume goes on from "
            "there."
        )
        self._restore()
        leave(128 + self._signal)
        raise SystemExit(128 + self._signal)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and step not in kept:
            kept.append(step)
            # With those still to be removed, which a run that is killed here does when it resumes.
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
            # MMEngine's runners write more into it, and one of them counts epochs itself.
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
        """Puts off what is removed until all is saved."""
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
    """Saves under the name ``filename.part``, and gives the checkpoint its own name once all of it is on the disk.

    Args:
        save: The ``save_checkpoint`` of one of MMEngine's runners.
        out_dir: The directory.
        filename: The checkpoint's name in it.
        *args: Of ``save``.
        **options: Of ``save``.

    Raises:
        UserError: It could not be written, because the disk is full for example; nothing of it remains.
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
            f"{path} could not be written: {os.strerror(number)}. The checkpoints before it are whole; make room "
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
    """Waits until a file, or the names in a directory, are on the disk itself."""
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
    """The largest of the processes' numbers, so that all stop if one is told to."""
    if not dist.is_distributed():
        return number
    numbers = torch.tensor(number)
    dist.all_reduce(numbers, "max")
    return int(numbers)


def _outlive_signals(init: Callable[[int], None] | None, worker: int) -> None:
    """Starts a worker that stops when its training tells it to, or is gone; not when a scheduler signals every process.

    A training whose workers are gone cannot finish its step. Workers that stay when it is gone hold its memory, and its
    connections to the other processes of the run, which then wait for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # it is not everywhere
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_wait_for_training, args=(os.getppid(),), daemon=True).start()
    if init:
        init(worker)


def _wait_for_training(parent: int) -> None:
    training = multiprocessing.parent_process()  # not the parent, where a server forks
    while os.getppid() == parent:
        got = signal.sigtimedwait([signal.SIGTERM], 1)
        if got and training and got.si_pid == training.pid:
            break
    os._exit(0)
