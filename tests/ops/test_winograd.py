"""Winograd's convolution: values and gradients of PyTorch's convolution, for any sizes."""

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.models import assert_close
from xcit_dense.ops import winograd
from xcit_dense.ops.conv import Convolution
from xcit_dense.ops.recompute import multiply

# The largest difference. The standard deviation of the differences is a tenth of it.
TOLERANCE = 5e-5
# Images, height and width: fewer positions than a tile, all remainders of a tile, several strips, several images of a
# strip, and rows that are longer than a strip.
SIZES = [(1, 1, 1), (1, 2, 3), (2, 4, 4), (3, 5, 6), (1, 7, 9), (50, 14, 14), (3, 33, 65), (1, 101, 62), (1, 8, 700)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", SIZES)
def test_the_values_are_those_of_a_convolution(size, memory_format):
    x = torch.randn(size[0], 6, *size[1:]).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(5, 6, 3, 3), torch.randn(5)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    kernel = winograd.transform_kernel(weight)
    assert_close(winograd.convolve(x, kernel, bias), expected.float(), TOLERANCE)
    assert_close(winograd.convolve(x, kernel), (expected - bias[:, None, None]).float(), TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_the_weight_is_that_of_a_convolution(size):
    x = torch.randn(size[0], 6, *size[1:])
    weight = torch.randn(5, 6, 3, 3).double().requires_grad_()
    y = F.conv2d(x.double(), weight, padding=1)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, weight, grad)
    assert_close(winograd.weight_gradient(grad.float(), x), expected.float(), TOLERANCE)


def test_a_convolution_of_many_channels_is_as_exact_as_pytorchs():
    # Real activations are not negative, so that rounding errors do not cancel.
    x, weight = torch.rand(1, 512, 48, 48), torch.randn(256, 512, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)

    def error(y):
        return float((y - exact).std() / exact.std())

    ours = error(winograd.convolve(x, winograd.transform_kernel(weight)))
    assert ours < 3e-6
    assert ours < 10 * error(F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_a_large_map_uses_it_in_both_passes(bias, monkeypatch):
    calls = []
    for name in ("convolve", "weight_gradient"):
        original = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *args, name=name, to=original: calls.append(name) or to(*args))
    x, weight = torch.randn(1, 128, 48, 48, requires_grad=True), torch.randn(130, 128, 3, 3, requires_grad=True)
    operands = [weight, torch.randn(130, requires_grad=True)][: 1 + bias]
    y = multiply(Convolution(padding=(1, 1)), x, *operands)
    grad = torch.randn_like(y)
    gradients = torch.autograd.grad(y, [x, *operands], grad)
    assert calls == ["convolve", "convolve", "weight_gradient"]
    expected = F.conv2d(x, *operands, padding=1)
    assert_close(y, expected, TOLERANCE)
    for got, want in zip(gradients, torch.autograd.grad(expected, [x, *operands], grad)):
        assert_close(got, want, TOLERANCE)


@pytest.mark.parametrize(
    "other",
    [
        {"stride": (2, 2)},
        {"padding": (0, 0)},
        {"weight": torch.empty(128, 128, 1, 1), "padding": (0, 0)},
        {"weight": torch.empty(128, 64, 3, 3)},  # two groups
        {"x": torch.empty(1, 128, 8, 8)},
        {"x": torch.empty(1, 128, 64, 64, device="meta")},
        {"weight": torch.empty(64, 128, 3, 3)},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float64},
    ],
)
def test_other_convolutions_are_left_to_pytorch(other):
    convolution = {
        "x": torch.empty(1, 128, 64, 64),
        "weight": torch.empty(128, 128, 3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dtype": torch.float32,
    }
    assert winograd.is_faster(**convolution)
    assert not winograd.is_faster(**convolution | other)
