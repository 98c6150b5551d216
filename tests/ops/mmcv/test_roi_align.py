"""The maximum of mmcv's RoIAlign agrees with plain loops, and threads do not change the average."""

import itertools
import math

import pytest
import torch

pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches import mmcv_ext

BINS = (2, 3)
SIZE = (9, 11)
LOWEST = -10000.0  # mmcv's maximum of a bin without samples


@pytest.fixture(scope="module")
def ops():
    mmcv_ext.install()
    import mmcv.ops

    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    return mmcv.ops


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *SIZE, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def example_rois(count=20):
    """More RoIs than are pooled at once, and some that are unusual."""
    generator = torch.Generator().manual_seed(1)
    near = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 6
    far = near + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 5
    unusual = torch.tensor(
        [
            [0, -4.3, -3.2, 3.6, 2.7],  # over the upper left corner
            [1, 8.4, 6.3, 15.9, 14.2],  # over the lower right corner
            [0, 20.3, 20.1, 25.2, 24.7],  # outside
            [1, 5.2, 4.1, 5.2, 4.1],  # the area is 0
        ],
        dtype=torch.float64,
    )
    return torch.cat([torch.cat([torch.arange(count)[:, None] % 2, near, far], 1), unusual])


def value_at(plane, y, x):
    if not (-1 <= y <= SIZE[0] and -1 <= x <= SIZE[1]):
        return plane.sum() * 0
    y, x = min(max(y, 0), SIZE[0] - 1), min(max(x, 0), SIZE[1] - 1)
    rows, columns = ({math.floor(c), min(math.floor(c) + 1, end - 1)} for c, end in zip((y, x), SIZE))
    return sum((1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column] for row in rows for column in columns)


def loop_maximum(x, rois, spatial_scale, sampling_ratio, aligned):
    """The pooled values. Autograd computes their gradient."""
    output = torch.full((len(rois), x.shape[1], *BINS), LOWEST, dtype=x.dtype)
    for k, c, i, j in itertools.product(*map(range, output.shape)):
        x1, y1, x2, y2 = (corner * spatial_scale - (0.5 if aligned else 0) for corner in rois[k, 1:].tolist())
        sides = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        bin_h, bin_w = (side / bins for side, bins in zip(sides, BINS))
        rows, columns = (sampling_ratio or math.ceil(side) for side in (bin_h, bin_w))
        samples = [
            value_at(
                x[int(rois[k, 0]), c],
                y1 + (i + (row + 0.5) / rows) * bin_h,
                x1 + (j + (column + 0.5) / columns) * bin_w,
            )
            for row, column in itertools.product(range(rows), range(columns))
        ]
        if samples:
            output[k, c, i, j] = max(samples, key=float)
    return output


@pytest.mark.parametrize("spatial_scale", [1.0, 0.5])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_the_maximum_and_its_gradient_follow_the_definition(ops, aligned, sampling_ratio, spatial_scale):
    x, other = features(), features()
    rois = example_rois()
    rois[:, 1:] /= spatial_scale
    ours = ops.RoIAlign(BINS, spatial_scale, sampling_ratio, "max", aligned)(x, rois)
    expected = loop_maximum(other, rois, spatial_scale, sampling_ratio, aligned)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(x.grad, other.grad)


def test_the_maximum_passes_gradcheck(ops):
    x = features()[:, :1].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, example_rois()[::4], BINS, 1.0, 2, "max"), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_lower_precision_only_rounds_the_result(ops, dtype, mode):
    x, rois = features(dtype), example_rois(count=4).to(dtype)
    exact = x.detach().double().requires_grad_()
    ours = ops.roi_align(x, rois, BINS, 1.0, 2, mode)
    expected = ops.roi_align(exact, rois.double(), BINS, 1.0, 2, mode)
    ours.sum().backward()
    expected.sum().backward()
    assert ours.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    if mode == "avg":  # mmcv keeps the place of a maximum in the dtype of the features
        torch.testing.assert_close(x.grad, exact.grad.to(dtype))


def test_the_maximum_reads_channels_last_features_and_is_deterministic(ops):
    x, turned, rois = features(), features(), example_rois()
    torch.use_deterministic_algorithms(True)
    try:
        results = [
            ops.roi_align(t, rois, BINS, 1.0, 0, "max") for t in (x, turned.to(memory_format=torch.channels_last))
        ]
        for result in results:
            result.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*results)
    assert torch.equal(x.grad, turned.grad)


def test_the_maximum_without_rois_is_empty(ops):
    x = features()
    output = ops.roi_align(x, torch.zeros(0, 5, dtype=torch.float64), BINS, 1.0, 0, "max")
    output.sum().backward()
    assert output.shape == (0, 3, *BINS)
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_threads_do_not_change_the_average(ops, layout):
    """700 RoIs of 32 channels are enough for the use of threads."""
    x = torch.randn(2, 32, 20, 20).to(memory_format=layout).requires_grad_()
    near = torch.rand(700, 2) * 15
    rois = torch.cat([torch.arange(700.0)[:, None] % 2, near, near + 5 * torch.rand(700, 2)], 1)
    before = torch.get_num_threads()
    results, gradients = [], []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.autocast("cpu", torch.bfloat16):
                pooled = ops.roi_align(x, rois, (7, 7), 1.0, 0)
            results.append(pooled)
            gradients.append(torch.autograd.grad(pooled.square().sum(), x)[0])
    finally:
        torch.set_num_threads(before)
    assert results[0].dtype == torch.float32
    for result, gradient in zip(results[1:], gradients[1:]):
        assert torch.equal(result, results[0])
        assert torch.equal(gradient, gradients[0])


def test_threads_work_in_inference_mode(ops):
    before = torch.get_num_threads()
    rois = torch.tensor([[0.0, 1.0, 1.0, 7.0, 8.0]]).repeat(700, 1)
    x = torch.randn(1, 32, 10, 10)
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            pooled = ops.roi_align(x * 1, rois, (7, 7))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(pooled, ops.roi_align(x, rois[:1], (7, 7)).expand_as(pooled))
