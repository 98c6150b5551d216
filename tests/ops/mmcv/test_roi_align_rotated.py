"""RoIAlign of rotated boxes agrees with plain loops, and without a rotation with RoIAlign."""

import itertools
import math

import pytest
import torch

HEIGHT, WIDTH = 7, 9
BINS = (2, 3)


def features(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def example_rois(scale=1.0):
    """Index of the image, centre and size in pixels, given here in cells, and angle."""
    rois = torch.tensor(
        [
            [0, 4.2, 3.1, 5.3, 3.7, 0.4],
            [1, 4.0, 3.0, 9.0, 7.0, -1.1],
            [0, 1.0, 1.0, 8.0, 6.0, 2.5],  # over the upper left corner
            [1, 5.1, 4.3, 0.6, 0.4, 0.9],  # less than a cell
            [1, 30.0, 30.0, 4.0, 4.0, 0.3],  # outside
            [0, 5.1, 4.3, 0.0, 2.0, 0.9],  # the area is 0
        ],
        dtype=torch.float64,
    )
    rois[:, 1:5] /= scale
    return rois


def value_at(image, y, x):
    """(C,) interpolated features. They are 0 if the point is more than a cell outside."""
    if not (-1 <= y <= HEIGHT and -1 <= x <= WIDTH):
        return torch.zeros(len(image), dtype=image.dtype)
    y, x = min(max(y, 0), HEIGHT - 1), min(max(x, 0), WIDTH - 1)
    near = [
        [max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) for column in range(WIDTH)] for row in range(HEIGHT)
    ]
    return (image * torch.tensor(near, dtype=image.dtype)).sum((1, 2))


def loop_pool(x, rois, scale, ratio, aligned, clockwise):
    pooled = []
    for image, *box, angle in rois.tolist():
        centre_x, centre_y, width, height = (number * scale for number in box)
        if aligned:
            centre_x, centre_y = centre_x - 0.5, centre_y - 0.5
        else:
            width, height = max(width, 1), max(height, 1)
        angle = -angle if clockwise else angle
        rows, columns = ratio or math.ceil(height / BINS[0]), ratio or math.ceil(width / BINS[1])
        for i, j in itertools.product(*map(range, BINS)):
            total = torch.zeros(x.shape[1], dtype=x.dtype)
            for row, column in itertools.product(range(rows), range(columns)):
                up = -height / 2 + (i + (row + 0.5) / rows) * height / BINS[0]
                along = -width / 2 + (j + (column + 0.5) / columns) * width / BINS[1]
                at_y = up * math.cos(angle) - along * math.sin(angle) + centre_y
                at_x = up * math.sin(angle) + along * math.cos(angle) + centre_x
                total = total + value_at(x[int(image)], at_y, at_x)
            pooled.append(total / max(rows * columns, 1))
    return torch.stack(pooled).reshape(len(rois), *BINS, x.shape[1]).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("scale", "ratio"), [(1.0, 0), (0.25, 2)])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("clockwise", [True, False])
def test_rotated_roi_align_and_its_gradient_follow_the_definition(mmcv_ops, scale, ratio, aligned, clockwise):
    x, rois = features(), example_rois(scale)
    expected = loop_pool(x, rois, scale, ratio, aligned, clockwise)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (expected_gradient,) = torch.autograd.grad(expected, x, slope)
    pooled = mmcv_ops.RoIAlignRotated(BINS, scale, ratio, aligned, clockwise)(x, rois)
    pooled.backward(slope)
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(x.grad, expected_gradient)


def test_rotated_roi_align_without_a_rotation_is_roi_align(mmcv_ops):
    x, rois = features(torch.float32), example_rois().float()[:4]
    rois[:, 5] = 0
    corners = torch.cat([rois[:, :1], rois[:, 1:3] - rois[:, 3:5] / 2, rois[:, 1:3] + rois[:, 3:5] / 2], 1)
    torch.testing.assert_close(
        mmcv_ops.roi_align_rotated(x, rois, BINS, 1.0, 2), mmcv_ops.roi_align(x, corners, BINS, 1.0, 2)
    )


@pytest.mark.usefixtures("deterministic")
def test_rotated_roi_align_passes_gradcheck(mmcv_ops):
    x, rois = features()[:, :1].detach().requires_grad_(), example_rois()[:3]
    assert torch.autograd.gradcheck(lambda x: mmcv_ops.roi_align_rotated(x, rois, BINS, 1.0, 0), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rotated_roi_align_of_lower_precision_only_rounds_its_result(mmcv_ops, dtype):
    x, rois = features(dtype), example_rois().to(dtype)
    exact = x.detach().double().requires_grad_()
    pooled = mmcv_ops.roi_align_rotated(x, rois, BINS, 1.0, 2)
    pooled.sum().backward()
    expected = mmcv_ops.roi_align_rotated(exact, rois.double(), BINS, 1.0, 2)
    expected.sum().backward()
    assert pooled.dtype == x.grad.dtype == dtype
    step = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(pooled, expected.to(dtype), rtol=step, atol=1e-4)
    torch.testing.assert_close(x.grad, exact.grad.to(dtype), rtol=step, atol=1e-4)


def test_rotated_roi_align_reads_channels_last_features(mmcv_ops):
    x, rois = features(torch.float32).detach(), example_rois().float()
    ours = mmcv_ops.roi_align_rotated(x.to(memory_format=torch.channels_last), rois, BINS, 1.0)
    torch.testing.assert_close(ours, mmcv_ops.roi_align_rotated(x, rois, BINS, 1.0))


def test_rotated_roi_align_without_rois_is_empty_and_gives_a_zero_gradient(mmcv_ops):
    x = features(torch.float32)
    pooled = mmcv_ops.roi_align_rotated(x, torch.zeros(0, 6), BINS, 1.0)
    pooled.sum().backward()
    assert pooled.shape == (0, 3, *BINS)
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_rotated_roi_align_refuses_a_negative_size(mmcv_ops):
    with pytest.raises(ValueError, match="negative width or height"):
        mmcv_ops.roi_align_rotated(features(), torch.tensor([[0, 4.0, 4, -2, 2, 0]], dtype=torch.float64), BINS, 1.0)
