"""mmcv's deformable RoI pooling agrees with plain loops, and its gradients with finite differences."""

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
        pytest.skip("a compiled mmcv has the deformable RoI pooling on GPUs only")
    return mmcv.ops


def operands(dtype=torch.float64, count=18):
    """Features, RoIs and offsets. Most samples are inside the map, and one RoI is at its border."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, *SIZE, generator=generator, dtype=torch.float64)
    near = 2 + 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    far = near + 1 + 3 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    rois = torch.cat([torch.arange(count)[:, None] % 2, near, far], 1)
    rois[-1, 1:] = torch.tensor([-4.3, -3.2, 3.6, 2.7])
    offset = torch.randn(count, 2, *BINS, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), rois.to(dtype), offset.to(dtype).requires_grad_()


def value_at(plane, y, x):
    if not (-1 <= y <= SIZE[0] and -1 <= x <= SIZE[1]):
        return 0.0
    y, x = min(max(y, 0), SIZE[0] - 1), min(max(x, 0), SIZE[1] - 1)
    return sum(
        max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * plane[row, column].item()
        for row, column in itertools.product(*map(range, SIZE))
    )


def loop_deform_roi_pool(x, rois, offset, spatial_scale, sampling_ratio, gamma):
    output = torch.zeros(len(rois), x.shape[1], *BINS, dtype=x.dtype)
    for k, c, i, j in itertools.product(*map(range, output.shape)):
        x1, y1, x2, y2 = (corner * spatial_scale - 0.5 for corner in rois[k, 1:].tolist())
        height, width = y2 - y1, x2 - x1
        if offset is not None:
            x1 += gamma * width * offset[k, 0, i, j].item()
            y1 += gamma * height * offset[k, 1, i, j].item()
        bin_h, bin_w = height / BINS[0], width / BINS[1]
        rows, columns = (sampling_ratio or math.ceil(side) for side in (bin_h, bin_w))
        samples = [
            value_at(
                x[int(rois[k, 0]), c],
                y1 + (i + (row + 0.5) / rows) * bin_h,
                x1 + (j + (column + 0.5) / columns) * bin_w,
            )
            for row, column in itertools.product(range(rows), range(columns))
        ]
        output[k, c, i, j] = sum(samples) / max(len(samples), 1)
    return output


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("with_offset", [True, False])
def test_deform_roi_pool_follows_the_definition(ops, with_offset, sampling_ratio):
    x, rois, offset = operands()
    offset = offset if with_offset else None
    rois[:, 1:] *= 2
    ours = ops.deform_roi_pool(x, rois, offset, BINS, 0.5, sampling_ratio, 0.3)
    torch.testing.assert_close(ours, loop_deform_roi_pool(x, rois, offset, 0.5, sampling_ratio, 0.3))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_deform_roi_pool_passes_gradcheck(ops, sampling_ratio):
    x, rois, offset = operands()
    function = lambda x, offset: ops.deform_roi_pool(x, rois, offset, BINS, 1.0, sampling_ratio, 0.1)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, offset), fast_mode=True)


def test_without_offsets_it_is_roi_align(ops):
    x, rois, _ = operands()
    pooled = ops.deform_roi_pool(x, rois, None, BINS)
    (ours,) = torch.autograd.grad(pooled.square().sum(), x)
    aligned = ops.roi_align(x, rois, BINS)
    (expected,) = torch.autograd.grad(aligned.square().sum(), x)
    torch.testing.assert_close(pooled, aligned)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_only_rounds_the_result(ops, dtype):
    inputs = operands(dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ours, expected = (ops.deform_roi_pool(*tensors, BINS, 1.0, 2) for tensors in (inputs, exact))
    ours.sum().backward()
    expected.sum().backward()
    assert ours.dtype == dtype
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(ours, expected.to(dtype), **tolerance)
    torch.testing.assert_close(inputs[0].grad, exact[0].grad.to(dtype), **tolerance)
    torch.testing.assert_close(inputs[2].grad, exact[2].grad.to(dtype), **tolerance)


def test_without_rois_the_result_is_empty_and_the_gradients_are_zero(ops):
    x, rois, offset = operands(count=1)
    output = ops.deform_roi_pool(x, rois[:0], offset[:0], BINS)
    output.sum().backward()
    assert output.shape == (0, 2, *BINS)
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", ["DeformRoIPoolPack", "ModulatedDeformRoIPoolPack"])
def test_layers_train_with_deterministic_algorithms(ops, name):
    layer = getattr(ops, name)(BINS, 2, deform_fc_channels=4)
    x, rois, _ = operands(torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        layer(x.to(memory_format=torch.channels_last), rois).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert layer.offset_fc[-1].bias.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0
