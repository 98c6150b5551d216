"""Trainings whose processes share each image: all processes draw the same samples."""

from __future__ import annotations

from typing import Any

from mmengine import dist
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, MODELS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import is_a


class EveryDefaultSampler(DefaultSampler):
    """MMEngine's ``DefaultSampler``, which draws the samples of a run of one process in each process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rank, self.world_size = 0, 1
        self.num_samples = self.total_size = len(self.dataset)


class EveryInfiniteSampler(InfiniteSampler):
    """MMEngine's ``InfiniteSampler``, which draws the samples of a run of one process in each process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rank, self.world_size = 0, 1
        self.indices = self._indices_of_rank()


_SAMPLERS: dict[type[Any], type[Any]] = {DefaultSampler: EveryDefaultSampler, InfiniteSampler: EveryInfiniteSampler}


def shares_images(config: Config) -> bool:
    """Returns whether the processes of a training divide each image.

    Args:
        config: A complete config.
    """
    is_one = config.get("launcher", "none") == "none"
    return not is_one and is_a(config, config.get("model"), "ShardedEncoderDecoder", MODELS)


def check_shared_images(config: Config) -> None:
    """Checks that the settings of a run fit to processes that divide each image.

    Args:
        config: A complete config.

    Raises:
        UserError: The config has a strategy, another sampler, or a number of batches that counts processes.
    """
    what = "model.type=ShardedEncoderDecoder divides each image over the processes"
    if config.get("strategy"):
        raise UserError(f"{what}, but the config also has a strategy, which divides the weights; leave strategy out.")
    loader = config.get("train_dataloader") or {}
    if "num_batch_per_epoch" in loader:
        raise UserError(f"{what}, but train_dataloader.num_batch_per_epoch counts them; leave it out.")
    sampler = loader.get("sampler") or {}
    if sampler and DATA_SAMPLERS.get(sampler["type"]) not in _SAMPLERS:
        raise UserError(
            f"{what}, which need the same samples, but train_dataloader.sampler is a {sampler['type']}; write "
            "DefaultSampler or InfiniteSampler."
        )


def share_samples(runner: Any) -> None:
    """Lets each process of a training draw the samples of a run of one process.

    Args:
        runner: A runner that has not built its data loader yet, and whose config passes :func:`check_shared_images`.
    """
    loader = runner._train_dataloader
    loader["sampler"]["type"] = _SAMPLERS[DATA_SAMPLERS.get(loader["sampler"]["type"])]
    if runner.auto_scale_lr:
        # MMEngine multiplies the number of images of a process with the number of processes.
        base = runner.auto_scale_lr.get("base_batch_size", 0) * dist.get_world_size()
        runner.auto_scale_lr = {**runner.auto_scale_lr, "base_batch_size": base}
