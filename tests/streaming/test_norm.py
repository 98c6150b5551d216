"""Batch norm over the rows of a process, here of one process: values, gradients and running statistics."""

import pytest
import torch
from torch import distributed, nn

from tests.helpers.models import assert_close, random_images
from xcit_dense.streaming.norm import normalise_band


@pytest.fixture
def group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


OPTIONS = [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"eps": 0.1, "momentum": 0.3}]


@pytest.mark.parametrize("options", OPTIONS)
def test_batch_norm_of_a_band_equals_that_of_pytorch(group, options):
    ours, theirs = nn.BatchNorm2d(4, **options), nn.BatchNorm2d(4, **options)
    x = 3 * random_images(2, 4, 5, 6) + 10
    slope = random_images(2, 4, 6, 5).mT
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(2):
        y = normalise_band(ours, found, 2 * 5 * 6)
        complete = theirs(expected)
    assert_close(y, complete.detach(), 1e-4)
    (y * slope).sum().backward()
    (complete * slope).sum().backward()
    assert_close(found.grad, expected.grad, 1e-4)
    for ours_parameter, parameter in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(ours_parameter.grad, parameter.grad, 1e-4)
    for buffer, of_theirs in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(buffer, of_theirs)


def test_half_precision_keeps_its_dtype(group):
    x = random_images(1, 4, 3, 5).bfloat16().requires_grad_()
    y = normalise_band(nn.BatchNorm2d(4), x, 15)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
