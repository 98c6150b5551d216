"""Trainings that go on exactly: what is random in a step depends on the seed and the step, not on what came before."""

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

_SAMPLES, _STEPS = range(2)  # kinds of randomness


@HOOKS.register_module(force=True)
class ReproducibleHook(Hook):
    """Makes a resumed training the same as one that was never interrupted, with any number of workers.

    MMEngine's checkpoints hold neither the state of the random numbers nor the place in an epoch. Here each sample's
    augmentation is drawn from the run's seed and the sample's place in the training, each step's dropout and
    sampling from the seed and the number of the step, and the checkpoint says how many batches of its epoch are done;
    these are passed over without being loaded. A resumed run takes the seed of its checkpoint.

    What augmentations keep in memory from earlier pictures is not restored. A data loader that is not given as a
    configuration is left as it is.
    """

    priority = "VERY_HIGH"  # before the hooks that use the data loader, and before the checkpoint of an epoch

    def __init__(self) -> None:
        self._done = 0  # batches of the epoch
        self._seed = 0

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Reads how much of the epoch is done.

        Args:
            runner: The run.
            checkpoint: What MMEngine has read.
        """
        if runner._resume:
            self._done = checkpoint.get("meta", {}).get("batches_done", 0)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Notes how much of the epoch is done.

        Args:
            runner: The run.
            checkpoint: What MMEngine writes.
        """
        checkpoint["meta"]["batches_done"] = self._done

    def before_train(self, runner: Any) -> None:
        """Makes the data loader one that starts at any batch, with the seed that the run has by now.

        Args:
            runner: The run.
        """
        loop, settings = runner.train_loop, runner._train_dataloader
        is_endless = isinstance(loop, IterBasedTrainLoop)
        if is_endless:
            self._done = loop.iter
        # MMEngine may have added the rank to the seed; a sample's place is one that all processes share.
        differ = (getattr(runner, "_randomness_cfg", None) or {}).get("diff_rank_seed", False)
        self._seed = runner.seed - dist.get_rank() * differ
        if not isinstance(settings, dict) or not hasattr(loop.dataloader.dataset, "__getitem__"):
            return
        samples = SeededSamples(loop.dataloader.dataset, self._seed)
        # Anew, because the sampler knows a seed and may have begun.
        loader = runner.build_dataloader({**settings, "dataset": samples}, seed=self._seed)
        # PyTorch's guard is for data loaders that have begun.
        vars(loader)["batch_sampler"] = PlacedBatches(loader.batch_sampler, is_endless, self._done)
        loop.dataloader = loader
        if is_endless:
            # Where MMEngine draws batches to drop them, it gets nothing.
            drops = 0 if hasattr(loop.dataloader_iterator, "skip_iter") else loop.iter
            loop.dataloader_iterator = _Endless(loader, drops)

    def before_train_epoch(self, runner: Any) -> None:
        """Starts the epoch behind what is done of it.

        Args:
            runner: The run.
        """
        batches = runner.train_loop.dataloader.batch_sampler
        if isinstance(batches, PlacedBatches):
            batches.epoch, batches.start = runner.epoch, self._done

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds the step.

        Args:
            runner: The run.
            batch_idx: Not used.
            data_batch: Not used.
        """
        seed_everything(self._seed, _STEPS, dist.get_rank(), runner.iter)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Counts the batch.

        Args:
            runner: The run.
            batch_idx: Not used, as what follows.
            data_batch: Not used.
            outputs: Not used.
        """
        self._done += 1

    def after_train_epoch(self, runner: Any) -> None:
        """Begins to count anew.

        Args:
            runner: The run.
        """
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._done = 0


def seed_everything(*key: int) -> None:
    """Seeds the random numbers of Python, NumPy and PyTorch.

    Args:
        *key: Numbers, not negative. Keys that differ give numbers that have nothing to do with each other.
    """
    words = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    # torch.manual_seed also notes, a millisecond each time, where it was called for each device that is not used yet.
    torch.default_generator.manual_seed(int(words[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(words[2]))


class SeededSamples(Dataset[Any]):
    """A data set whose samples are asked for by index and place; the place decides what is random in them.

    Otherwise the data set itself: its attributes are read and set through this.

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
        if name.startswith("__") or "dataset" not in vars(self):  # a protocol, or an instance being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __deepcopy__(self, memo: Any) -> SeededSamples:
        return self  # MMEngine copies the settings of a data loader, of which this is one


class PlacedBatches:
    """Batches of indices, each index with its place in the training, from any batch on.

    A place is (epoch, number of the sample in it), counted over all processes, so it is the same for the same sample
    however many processes share a batch.

    Args:
        batches: Batches of indices, of one epoch.
        is_endless: Whether epochs follow each other without end; they are then one epoch, and counted through.
        start: Batches to leave out, once.
    """

    def __init__(self, batches: Any, is_endless: bool, start: int) -> None:
        self.batches, self.is_endless, self.start = batches, is_endless, start
        self.sampler: Any = getattr(batches, "sampler", None)  # MMEngine tells it the epoch
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        start, self.start = self.start, 0
        rank, processes = dist.get_dist_info()
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
    """Batches for ``IterBasedTrainLoop``, from a loader that never ends.

    Args:
        loader: The loader.
        drops: How often the loop will draw in order to skip what is done, which the loader leaves out by itself.
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
