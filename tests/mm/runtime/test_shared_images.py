"""Processes that share each image draw the same samples."""

from itertools import islice

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.dataset import sampler as samplers
from torch.utils.data import BatchSampler

from tests.helpers.models import raises_user_error
from tests.helpers.tiny import tiny_config
from xcit_dense.mm.hooks import reproducible
from xcit_dense.mm.hooks.reproducible import PlacedBatches
from xcit_dense.mm.runtime.shared_images import (
    EveryDefaultSampler,
    EveryInfiniteSampler,
    check_shared_images,
    shares_images,
)

DATA = range(10)


def draw(kind):
    """The first batches of a run, with the position of each sample."""
    batches = PlacedBatches(BatchSampler(kind(DATA, seed=3), 2, drop_last=False), is_endless=False, start=0)
    return list(islice(batches, 5))


@pytest.mark.parametrize(
    ("kind", "every"),
    [(samplers.DefaultSampler, EveryDefaultSampler), (samplers.InfiniteSampler, EveryInfiniteSampler)],
)
def test_each_process_draws_the_samples_and_positions_of_one_process(monkeypatch, kind, every):
    expected = draw(kind)
    for rank in range(3):
        monkeypatch.setattr(samplers, "get_dist_info", lambda rank=rank: (rank, 3))
        monkeypatch.setattr(reproducible.dist, "get_dist_info", lambda rank=rank: (rank, 3))
        assert draw(every) == expected
        assert len(every(DATA, seed=3)) == len(DATA)
        assert draw(kind) != expected


def shared_config():
    config = tiny_config("segmentation")
    config.model.type = "ShardedEncoderDecoder"
    config.launcher = "pytorch"
    return config


def test_only_several_processes_share_images():
    config = shared_config()
    assert shares_images(config)
    config.launcher = "none"
    assert not shares_images(config)
    assert not shares_images(tiny_config("segmentation"))


def test_settings_that_do_not_fit_are_refused():
    config = shared_config()
    check_shared_images(config)
    for changes, words in (
        ({"strategy": {"type": "XCiTFSDPStrategy"}}, ["strategy", "leave"]),
        ({"train_dataloader.num_batch_per_epoch": 3}, ["num_batch_per_epoch"]),
        ({"train_dataloader.sampler.type": "mmdet.ClassAwareSampler"}, ["ClassAwareSampler", "InfiniteSampler"]),
    ):
        config = shared_config()
        config.merge_from_dict(changes)
        with raises_user_error("ShardedEncoderDecoder", *words):
            check_shared_images(config)
