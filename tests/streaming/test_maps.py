"""Windows of maps have the values of the complete maps."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.models import assert_close, raises_user_error, random_images, randomise
from xcit_dense.rasters.window import Window, blocks_of
from xcit_dense.streaming.maps import Add, Apply, Concatenate, Enlarge, Kept, Map, Normalise, Pool, PooledMap

SIDES = [(1, 1), (1, 5), (2, 3), (2, 4), (3, 7), (5, 9), (7, 5), (8, 16), (10, 33), (13, 52), (50, 51), (64, 1000)]


def windows_of(height, width, count=8):
    """Some windows of a map: all of it, one position, and random ones."""
    draw = random.Random(height * width)
    yield Window(0, 0, height, width)
    yield Window(height - 1, width - 1, 1, 1)
    for _ in range(count):
        row, column = draw.randrange(height), draw.randrange(width)
        yield Window(row, column, draw.randint(1, height - row), draw.randint(1, width - column))


def assert_windows_equal(made: Map, complete, tolerance=1e-5):
    assert (1, made.channels, made.height, made.width) == complete.shape
    for window in windows_of(made.height, made.width):
        rows, columns = window.slices
        expected = complete[:, :, rows, columns]
        got = made.read(window)
        assert got.shape == expected.shape
        assert (got - expected).abs().max() < tolerance * max(1, complete.std(correction=0)), window


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mode", "corners"), [("nearest", False), ("bilinear", False), ("bilinear", True)])
@pytest.mark.parametrize(("side", "larger"), SIDES)
def test_an_enlarged_map_is_that_of_interpolate(side, larger, mode, corners, dtype):
    x = random_images(1, 2, side, 6).to(dtype)
    options = {} if mode == "nearest" else {"align_corners": corners}
    for source, size in ((x, (larger, 13)), (x.mT.contiguous(), (13, larger))):
        complete = F.interpolate(source, size, mode=mode, **options)
        assert_windows_equal(Enlarge(Kept(source), *size, mode, corners), complete)


@pytest.mark.parametrize("corners", [False, True])
def test_positions_far_from_the_start_are_rounded_as_interpolate_rounds_them(corners):
    x = random_images(1, 1, 1, 40_001)
    complete = F.interpolate(x, (1, 120_007), mode="bilinear", align_corners=corners)
    exact = F.interpolate(x.double(), (1, 120_007), mode="bilinear", align_corners=corners)
    got = Enlarge(Kept(x), 1, 120_007, align_corners=corners).read(Window(0, 110_000, 1, 9_000))
    assert (got - complete[..., 110_000:119_000]).abs().max() < 1e-5
    assert (got - exact[..., 110_000:119_000]).abs().max() > 1e-4  # the rounding is not small


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (17, 12)])
def test_a_convolution_sees_zeros_only_where_the_complete_map_ends(size):
    x = random_images(1, 3, *size)
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 5, padding=2))
    layer = randomise(layer).eval()
    with torch.no_grad():
        assert_windows_equal(Apply(Kept(x), layer, channels=2, halo=3), layer(x))


def test_a_graph_of_maps_computes_each_map_once_for_a_window():
    calls = []

    class Counted(nn.Identity):
        def forward(self, x):
            calls.append(tuple(x.shape[2:]))
            return x

    x, coarse = random_images(1, 2, 12, 16), random_images(1, 2, 6, 8)
    shared = Apply(Kept(coarse), Counted(), channels=2)
    enlarged = Enlarge(shared, 12, 16)
    both = Concatenate(Add(Kept(x), enlarged), Apply(enlarged, nn.MaxPool2d(3, 1, 1), channels=2, halo=1))
    larger = F.interpolate(coarse, (12, 16), mode="bilinear")
    complete = torch.cat([x + larger, F.max_pool2d(larger, 3, 1, 1)], dim=1)
    assert_windows_equal(both, complete)
    calls.clear()
    both.read(Window(4, 4, 2, 2))
    assert len(calls) == 1
    assert calls[0][0] <= 5


def test_the_inputs_of_a_sum_do_not_change():
    x = random_images(1, 2, 4, 4)
    before = x.clone()
    total = Add(Kept(x), Kept(x), Kept(x))
    assert torch.equal(total.read(Window(0, 0, 4, 4)), 3 * x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 10), (40, 33)])
@pytest.mark.parametrize("tile", [1, 3, 16, 64])
def test_pooled_maps_are_those_of_adaptive_average_pooling(size, tile):
    x = random_images(1, 3, *size)
    pool = Pool(Kept(x), (1, 2, 3, 6), tile)
    for index, count in enumerate(pool.counts):
        assert_windows_equal(PooledMap(pool, index), F.adaptive_avg_pool2d(x, count))


@pytest.mark.parametrize("window", [Window(0, 0, 0, 1), Window(-1, 0, 2, 2), Window(3, 0, 2, 2), Window(0, 3, 1, 3)])
def test_a_window_that_is_not_inside_is_refused(window):
    with raises_user_error("window (rows", "4 x 5"):
        Kept(torch.zeros(1, 1, 4, 5)).read(window)


def test_other_modes_are_refused():
    with raises_user_error("bicubic", "'bilinear'"):
        Enlarge(Kept(torch.zeros(1, 1, 4, 5)), 8, 10, "bicubic")


def test_the_plan_states_the_window_of_each_map():
    level = Kept(torch.zeros(1, 1, 32, 32))
    smoothed = Apply(level, nn.Conv2d(1, 1, 3, padding=1), channels=1, halo=1)
    plan = smoothed.plan(Window(8, 0, 4, 4))
    assert [*plan] == [smoothed, level]
    assert plan[level] == Window(7, 0, 6, 5)


def test_values_agree_with_a_large_random_graph():
    fine, coarse = random_images(1, 4, 37, 41), random_images(1, 4, 9, 10)
    layer = randomise(nn.Conv2d(8, 4, 3, padding=1))
    with torch.no_grad():
        joined = torch.cat([fine, F.interpolate(coarse, (37, 41), mode="bilinear")], dim=1)
        complete = F.interpolate(layer(joined), (150, 166), mode="bilinear")
        made = Apply(Concatenate(Kept(fine), Enlarge(Kept(coarse), 37, 41)), layer, channels=4, halo=1)
        enlarged = Enlarge(made, 150, 166)
        rebuilt = torch.zeros_like(complete)
        for one in blocks_of(150, 166, 64):
            rows, columns = one.slices
            rebuilt[:, :, rows, columns] = enlarged.read(one)
    assert_close(rebuilt, complete, 1e-5)


def test_a_tile_is_as_large_as_the_memory_allows():
    made = Enlarge(Apply(Kept(torch.zeros(1, 4, 512, 512)), nn.Identity(), channels=4), 2048, 2048)
    memory = made.bytes_for(Window(512, 512, 1024, 1024))
    assert memory > 4 * 4 * 1024 * 1024
    assert made.choose_tile(memory) == 1024
    assert made.choose_tile(memory - 1) == 512
    assert made.choose_tile(0) == 64
    assert made.choose_tile(10**12) == 4096


def test_a_batch_norm_in_training_mode_has_the_statistics_of_the_complete_map():
    x = random_images(1, 3, 9, 7)
    made, norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    complete = norm(x)
    got = Normalise(Kept(x), made).read(Window(2, 1, 4, 5))
    assert torch.equal(got, complete[:, :, 2:6, 1:6])
    assert torch.equal(made.running_var, norm.running_var)
