"""Reproducible trainings: the random numbers of a step depend on the seed and the step only."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import Dataset

_SAMPLES, _STEPS = range(2)  # what random numbers are for: the augmentation of a sample, or a step of the model


@HOOKS.register_module(force=True)
class ReproducibleHook(Hook):
    """Makes a resumed training equal to a training without interruption, with any number of workers.

    MMEngine's checkpoints contain neither the state of the random numbers nor the position in an epoch. This hook seeds
    the augmentation of each sample with the run's seed and the position of the sample in the training. It seeds dropout
    and sampling of each step with the run's seed and the number of the step. The checkpoint contains the number of
    batches of its epoch that are done, and a resumed run skips these batches without loading them. A resumed run takes
    the seed of its checkpoint.

    If all processes draw the same samples, because they divide each image, the random numbers are the same too.

    The hook does not restore what augmentations keep in memory from earlier images. It does not change a data loader
    that is an object instead of a config.
    """

    priority = "VERY_HIGH"  # before the hooks that use the data loader, and before the checkpoint of an epoch

    def __init__(self) -> None:
        self._done = 0  # batches of the epoch
        self._seed = 0
        self._rank = 0

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Reads the number of batches of the epoch that are done.

        Args:
            runner: The runner.
            checkpoint: The checkpoint that MMEngine has read.
        """
        if runner._resume:
            self._done = checkpoint.get("meta", {}).get("batches_done", 0)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the number of batches of the epoch that are done.

        Args:
            runner: The runner.
            checkpoint: The checkpoint that MMEngine writes.
        """
        checkpoint["meta"]["batches_done"] = self._done

    def before_train(self, runner: Any) -> None:
        """Replaces the data loader by a data loader that can start at any batch.

        Args:
            runner: The runner.
        """
        loop, settings = runner.train_loop, runner._train_dataloader
        is_endless = isinstance(loop, IterBasedTrainLoop)
        if is_endless:
            self._done = loop.iter
        # MMEngine may have added the rank to the seed, but the positions of samples count over all processes.
        differ = (getattr(runner, "_randomness_cfg", None) or {}).get("diff_rank_seed", False)
        self._seed = runner.seed - dist.get_rank() * differ
        self._rank = dist.get_rank()
        if not isinstance(settings, dict) or not hasattr(loop.dataloader.dataset, "__getitem__"):
            return
        samples = SeededSamples(loop.dataloader.dataset, self._seed)
        # A new loader, because the sampler of the old loader has a seed and may have started.
        loader = runner.build_dataloader({**settings, "dataset": samples}, seed=self._seed)
        # Through vars, because PyTorch forbids the assignment, also to a loader that has not started.
        batches = PlacedBatches(loader.batch_sampler, is_endless, self._done)
        vars(loader)["batch_sampler"] = batches
        self._rank = _share_of(batches.sampler)[0]
        loop.dataloader = loader
        if is_endless:
            # Some versions of MMEngine skip batches by loading them. They get None.
            drops = 0 if hasattr(loop.dataloader_iterator, "skip_iter") else loop.iter
            loop.dataloader_iterator = _Endless(loader, drops)

    def before_train_epoch(self, runner: Any) -> None:
        """Starts the epoch behind the batches that are done."""
        batches = runner.train_loop.dataloader.batch_sampler
        if isinstance(batches, PlacedBatches):
            batches.epoch, batches.start = runner.epoch, self._done

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds the random numbers of the step."""
        seed_everything(self._seed, _STEPS, self._rank, runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Counts the batch."""
        self._done += 1

    def after_train_epoch(self, runner: Any) -> None:
        """Resets the count at the end of an epoch."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._done = 0


def seed_everything(*key: int) -> None:
    """Seeds the random numbers of Python, NumPy and PyTorch.

    Args:
        *key: Integers >= 0. Different keys give independent random numbers.
    """
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # Not torch.manual_seed, which takes a millisecond to record its caller for each device that is not in use yet.
    torch.default_generator.manual_seed(int(words[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(words[2]))


def _share_of(sampler: Any) -> tuple[int, int]:
    """Returns which of how many shares of the samples a sampler draws: by default the share of the process."""
    rank, processes = dist.get_dist_info()
    return getattr(sampler, "rank", rank), getattr(sampler, "world_size", processes)


class SeededSamples(Dataset[Any]):
    """A data set that is indexed by index and position, and seeds the random numbers of a sample with the position.

    All attributes are the attributes of the original data set.

    Args:
        dataset: The data set.
        seed: The run's seed.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        vars(self).update(dataset=dataset, seed=seed)

    def __getitem__(self, item: tuple[int, tuple[int, ...]]) -> Any:
        index, place = item
        seed_everything(self.seed, _SAMPLES, *place)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in vars(self):  # or the object is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __deepcopy__(self, memo: Any) -> SeededSamples:
        return self  # MMEngine copies the config of a data loader, which contains this object


class PlacedBatches:
    """A batch sampler that adds the position in the training to each index, and can start at any batch.

    A position is (epoch, number of the sample in the epoch), counted over all processes. The position of a sample does
    not depend on the number of processes.

    Args:
        batches: The batches of indices of one epoch.
        is_endless: Whether to repeat the epochs without end. All of them count as one epoch then.
        start: The number of batches to skip in the first epoch.
    """

    def __init__(self, batches: Any, is_endless: bool, start: int) -> None:
        self.batches, self.is_endless, self.start = batches, is_endless, start
        self.sampler: Any = getattr(batches, "sampler", None)  # MMEngine calls its set_epoch
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        start, self.start = self.start, 0
        rank, processes = _share_of(self.sampler)
        sample = 0
        for number, batch in enumerate(self._endless() if self.is_endless else self.batches):
            if number >= start:
                places = ((self.epoch, (sample + i) * processes + rank) for i in range(len(batch)))
                yield list(zip(batch, places))
            sample += len(batch)

    def _endless(self) -> Iterator[Iterable[int]]:
        for epoch in count():
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            yield from self.batches


class _Endless:
    """The iterator of an ``IterBasedTrainLoop`` over a loader without end.

    Args:
        loader: The loader. It skips the batches that are done by itself.
        drops: The number of batches that the loop is going to request and drop.
    """

    def __init__(self, loader: Iterable[Any], drops: int) -> None:
        self._loader, self._drops = loader, drops
        self._iterator: Iterator[Any] | None = None

    def skip_iter(self, steps: int) -> None:
        """Does nothing."""

    def __next__(self) -> Any:
        if self._drops:
            self._drops -= 1
            return None
        if self._iterator is None:
            self._iterator = iter(self._loader)
        return next(self._iterator)
