"""Sums of rows are torchvision's RoIAlign, in values and gradients, for any RoI."""

import pytest
import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)

from xcit_dense.ops.mmcv.roi_sums import Pooling, can_sum_rows, sum_rows, sum_rows_backward

SIZES = {"square": (20, 20), "wide": (9, 33), "one row": (1, 12), "one cell": (1, 1)}
CHANNELS = 17


def example_rois(height, width, scale, dtype):
    """RoIs inside of the map, over each border, outside, with integer corners, and without area."""
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([width, height], dtype=torch.float64)
    near = (torch.rand(30, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3) * size
    far = near + torch.rand(30, 2, generator=generator, dtype=torch.float64).square() * size
    near[:6], far[:6] = near[:6].round(), far[:6].round()
    far[6] = near[6]
    near[7], far[7] = 0, size
    near[8], far[8] = 2 * size, 3 * size
    image = torch.arange(30)[:, None] % 2
    return torch.cat([image, near / scale, far / scale], dim=1).to(dtype)


def features(height, width, dtype):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, CHANNELS, height, width, generator=generator, dtype=torch.float64).to(dtype)


def torchvision_pool(maps, rois, pooling):
    return torch.ops.torchvision.roi_align(
        maps, rois, pooling.scale, *pooling.size, pooling.sampling_ratio, pooling.aligned
    )


def torchvision_gradient(grad, shape, rois, pooling):
    return torch.ops.torchvision._roi_align_backward(
        grad, rois, pooling.scale, *pooling.size, *shape, pooling.sampling_ratio, pooling.aligned
    )


@pytest.mark.parametrize("bins", [(7, 7), (2, 3), (1, 1)])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_torchvision(size, aligned, ratio, bins):
    pooling = Pooling(bins, 0.25, ratio, aligned)
    maps, rois = features(*size, torch.float64), example_rois(*size, 0.25, torch.float64)
    expected = torchvision_pool(maps, rois, pooling)
    grad = torch.randn(expected.shape, dtype=torch.float64)

    torch.testing.assert_close(sum_rows(maps, rois, pooling).permute(0, 3, 1, 2), expected)
    torch.testing.assert_close(
        sum_rows_backward(grad.permute(0, 2, 3, 1), maps.shape, rois, pooling),
        torchvision_gradient(grad, maps.shape, rois, pooling),
    )


def test_float32_only_rounds():
    """The coordinates are rounded as torchvision rounds them, so that large coordinates do not move a sample."""
    pooling = Pooling((7, 7), 0.25)
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(300, 2, generator=generator) * 1000
    rois = torch.cat([torch.zeros(300, 1), corner, corner + torch.rand(300, 2, generator=generator) * 200], dim=1)
    maps = torch.randn(1, CHANNELS, 300, 300, generator=generator)
    expected = torchvision_pool(maps, rois, pooling)
    pooled = sum_rows(maps, rois, pooling).permute(0, 3, 1, 2)
    assert (pooled - expected).abs().max() < 1e-5 * expected.std()
    grad = torch.randn(expected.shape, generator=generator)
    expected = torchvision_gradient(grad, maps.shape, rois, pooling)
    gradient = sum_rows_backward(grad.permute(0, 2, 3, 1), maps.shape, rois, pooling)
    assert (gradient - expected).abs().max() < 1e-5 * expected.std()


def test_the_number_of_cells_at_once_does_not_change_the_result(monkeypatch):
    pooling = Pooling((3, 3), 1.0)
    maps, rois = features(20, 20, torch.float64), example_rois(20, 20, 1.0, torch.float64)
    grad = torch.randn(30, 3, 3, CHANNELS, dtype=torch.float64)
    pooled, gradient = sum_rows(maps, rois, pooling), sum_rows_backward(grad, maps.shape, rois, pooling)
    monkeypatch.setattr("xcit_dense.ops.mmcv.roi_sums._ENTRIES", 40)
    monkeypatch.setattr("xcit_dense.ops.mmcv.roi_sums._ENTRIES_OF_GRADIENT", 40)
    assert torch.equal(sum_rows(maps, rois, pooling), pooled)
    torch.testing.assert_close(sum_rows_backward(grad, maps.shape, rois, pooling), gradient)


def test_the_memory_format_and_the_number_of_threads_do_not_change_the_result():
    pooling = Pooling((7, 7), 1.0)
    maps, rois = features(20, 20, torch.float32), example_rois(20, 20, 1.0, torch.float32)
    grad = torch.randn(30, 7, 7, CHANNELS)
    before = torch.get_num_threads()
    pooled, gradients = [], []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for layout in (torch.contiguous_format, torch.channels_last):
                pooled.append(sum_rows(maps.contiguous(memory_format=layout), rois, pooling))
            gradients.append(sum_rows_backward(grad, maps.shape, rois, pooling))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, pooled[0]) for one in pooled)
    assert all(torch.equal(one, gradients[0]) for one in gradients)


def test_a_negative_side_has_no_samples_and_gives_zeros():
    pooling = Pooling((2, 2), 1.0)
    rois = torch.tensor([[0.0, 8, 8, 2, 2]])
    maps = features(20, 20, torch.float32)
    assert torch.equal(sum_rows(maps, rois, pooling), torch.zeros(1, 2, 2, CHANNELS))
    grad = torch.ones(1, 2, 2, CHANNELS)
    assert torch.equal(sum_rows_backward(grad, maps.shape, rois, pooling), torch.zeros_like(maps))


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), 1e9])
def test_rois_that_are_not_finite_or_very_large_are_left_to_torchvision(corner):
    maps = features(20, 20, torch.float32).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[0.0, 1, 1, 5, 5], [0, 1, 1, 5, corner]])
    assert can_sum_rows(maps, rois[:1], Pooling((7, 7), 1.0))
    assert not can_sum_rows(maps, rois, Pooling((7, 7), 1.0))


def test_maps_of_few_channels_and_copies_for_few_rois_are_left_to_torchvision():
    rois, pooling = torch.tensor([[0.0, 1, 1, 5, 5]]), Pooling((2, 2), 1.0)
    maps = torch.zeros(1, 32, 40, 40)
    assert not can_sum_rows(maps, rois, pooling)
    assert can_sum_rows(maps.contiguous(memory_format=torch.channels_last), rois, pooling)
    assert can_sum_rows(maps, rois.repeat(100, 1), pooling)
    assert not can_sum_rows(maps[:, :1], rois.repeat(100, 1), pooling)
