"""mmcv's RoIPool agrees with plain loops, and its gradient with finite differences."""

import itertools
import math

import pytest
import torch

pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches import mmcv_ext

BINS = (2, 3)
SIZE = (9, 11)


@pytest.fixture(scope="module")
def ops():
    mmcv_ext.install()
    import mmcv.ops

    if not mmcv_ext.serving():
        pytest.skip("a compiled mmcv has RoIPool on GPUs only")
    return mmcv.ops


def features(dtype=torch.float64):
    # All cells differ, so each bin has one greatest cell.
    order = torch.randperm(2 * 3 * math.prod(SIZE), generator=torch.Generator().manual_seed(0))
    return (order.double() / 16 - 20).to(dtype).view(2, 3, *SIZE).requires_grad_()


def example_rois(spatial_scale=1.0, count=20):
    """Some RoIs with corners between the cells, many more than are pooled at once, and some that are unusual."""
    generator = torch.Generator().manual_seed(1)
    near = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 6
    far = near + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 5
    image = torch.arange(count)[:, None] % 2
    unusual = torch.tensor(
        [
            [0, -4.3, -3.2, 3.6, 2.7],  # over the upper left corner
            [1, 8.4, 6.3, 15.9, 14.2],  # over the lower right corner
            [0, 20.3, 20.1, 25.2, 24.7],  # outside
            [1, 6.2, 5.1, 3.0, 2.2],  # the far corner is before the near one
        ],
        dtype=torch.float64,
    )
    rois = torch.cat([torch.cat([image, near, far], 1), unusual])
    rois[:, 1:] /= spatial_scale
    return rois


def loop_roi_pool(x, rois, spatial_scale):
    """The pooled values. Autograd computes their gradient."""
    output = torch.zeros(len(rois), x.shape[1], *BINS, dtype=x.dtype)
    for k, roi in enumerate(rois.tolist()):
        x1, y1, x2, y2 = roi[1] * spatial_scale, roi[2] * spatial_scale, (roi[3] + 1), (roi[4] + 1)
        width, height = x2 * spatial_scale - x1, y2 * spatial_scale - y1
        if width <= 0 or height <= 0:
            continue
        for i, j in itertools.product(*map(range, BINS)):
            rows, columns = (
                range(max(math.floor(n * side / bins + start), 0), min(math.ceil((n + 1) * side / bins + start), end))
                for n, side, bins, start, end in zip((i, j), (height, width), BINS, (y1, x1), SIZE)
            )
            for channel in range(x.shape[1]):
                cells = [x[int(roi[0]), channel, row, column] for row in rows for column in columns]
                if cells:
                    output[k, channel, i, j] = max(cells, key=float)
    return output


@pytest.mark.parametrize("spatial_scale", [1.0, 0.5])
def test_roi_pool_and_its_gradient_follow_the_definition(ops, spatial_scale):
    x, other = features(), features()
    rois = example_rois(spatial_scale)
    ours, expected = ops.RoIPool(BINS, spatial_scale)(x, rois), loop_roi_pool(other, rois, spatial_scale)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(x.grad, other.grad)


def test_roi_pool_passes_gradcheck(ops):
    x = features()[:, :1].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.roi_pool(x, example_rois()[::4], BINS), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_keeps_the_greatest_cell(ops, dtype):
    x, rois = features(dtype), example_rois(count=4).to(dtype)
    ours = ops.roi_pool(x, rois, BINS)
    ours.sum().backward()
    assert ours.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(ours.double(), ops.roi_pool(x.double(), rois.double(), BINS))


def test_roi_pool_reads_channels_last_features_and_is_deterministic(ops):
    x, turned, rois = features(), features(), example_rois()
    torch.use_deterministic_algorithms(True)
    try:
        results = [ops.roi_pool(t, rois, BINS) for t in (x, turned.to(memory_format=torch.channels_last))]
        for result in results:
            result.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*results)
    assert torch.equal(x.grad, turned.grad)


def test_without_rois_the_result_is_empty_and_the_gradient_is_zero(ops):
    x = features()
    output = ops.roi_pool(x, torch.zeros(0, 5, dtype=torch.float64), BINS)
    output.sum().backward()
    assert output.shape == (0, 3, *BINS)
    assert torch.equal(x.grad, torch.zeros_like(x))
