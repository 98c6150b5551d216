"""Levels and gradients of an image in several processes equal those of one process."""

import pytest
import torch
from torch import nn

from tests.helpers.models import raises_user_error, random_images, tiny_xcit
from tests.helpers.ranks import run_ranks
from tests.streaming.sharded import slope
from xcit_dense.streaming.shard import communication, sharded_levels
from xcit_dense.streaming.stream import stream

CASES = (
    ({}, (160, 90)),
    ({"patch_size": 16, "with_cp": True}, (207, 75)),
    ({"out_strides": (8, 64), "out_indices": (1, 3)}, (261, 40)),
    ({"patch_size": 16, "out_strides": (16,), "out_indices": (2,)}, (97, 33)),
    ({"drop_path_rate": 0.5}, (96, 40)),
)


def one_process(options, size):
    """Returns the levels and the gradients of the complete image."""
    backbone = tiny_xcit(norm_eval=True, **options).train()
    torch.manual_seed(0)
    levels = backbone(random_images(1, 3, *size))
    sum((level * slope(level.shape, number)).sum() for number, level in enumerate(levels)).backward()
    return levels, {name: parameter.grad for name, parameter in backbone.named_parameters()}


@pytest.fixture(scope="module", params=[(1, 2), pytest.param((0, 1, 2), marks=[pytest.mark.slow, pytest.mark.long])])
def shards(request, tmp_path_factory):
    """Runs all cases in two of three processes, or in all three. Returns the results of each process."""
    directory = tmp_path_factory.mktemp("shards")
    cases = [(options, size, [level.shape for level in one_process(options, size)[0]]) for options, size in CASES]
    torch.save(cases, directory / "cases.pt")
    run_ranks("tests.streaming.sharded", 3, directory, *request.param)
    return [torch.load(directory / f"{rank}.pt", weights_only=False) for rank in request.param]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_levels_and_gradients_equal_one_process(shards, case):
    levels, gradients = one_process(*CASES[case])
    for number, level in enumerate(levels):
        parts = [shard[case]["levels"][number] for shard in shards]
        rows = [row for shard in shards for row in shard[case]["rows"][number]]
        assert rows == list(range(level.shape[2]))
        assert (torch.cat(parts, dim=2) - level).abs().max() <= 1e-4 * level.std()
    for shard in shards:
        for name, gradient in gradients.items():
            assert (shard[case]["gradients"][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("case", range(len(CASES)))
def test_streamed_bands_equal_one_process(shards, case):
    options, size = CASES[case]
    with torch.no_grad():
        levels = tiny_xcit(norm_eval=True, **options).eval()(random_images(1, 3, *size))
    counts = [torch.zeros(level.shape[2:]) for level in levels]
    for shard in shards:
        for number, window, part in shard[case]["streamed"]:
            rows, columns = window.slices
            assert (part - levels[number][:, :, rows, columns]).abs().max() <= 1e-4 * levels[number].std()
            counts[number][rows, columns] += 1
    # The own rows, the fetched rows and the tiles of all processes contain each position.
    assert all((count >= 3).all() for count in counts)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_the_communication_is_stated_exactly(shards, case):
    options, (_, width) = CASES[case]
    backbone = tiny_xcit(**options)
    shard = shards[len(shards) // 2][case]
    borders = min(2, len(shards) - 1)
    for sent, backward in ((shard["forward"], False), (shard["both"], True)):
        stated = communication(backbone, width, backward)
        assert sent["covariances"] == stated.covariances
        assert sent["halos"] == stated.halos * borders // 2


def test_backbones_that_depend_on_the_complete_image_are_refused():
    with raises_user_error("training mode", "norm_eval=True"):
        sharded_levels(tiny_xcit().train(), random_images(1, 3, 64, 64))
    with raises_user_error("training mode", "pos_drop", "drop_rate=0"):
        sharded_levels(tiny_xcit(norm_eval=True, drop_rate=0.1).train(), random_images(1, 3, 64, 64))
    with raises_user_error("use an XCiT"):
        sharded_levels(nn.Linear(2, 2), random_images(1, 3, 64, 64))


def test_processes_that_are_not_connected_are_refused():
    with raises_user_error("not connected", "torchrun"):
        sharded_levels(tiny_xcit().eval(), random_images(1, 3, 64, 64))
    with raises_user_error("not connected", "torchrun"):
        stream(tiny_xcit().eval(), random_images(1, 3, 64, 64), shard=True)
