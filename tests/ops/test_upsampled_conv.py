"""A convolution of maps of several sizes has the values and gradients of enlargement, concatenation and convolution."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.models import assert_close, raises_user_error, random_images
from xcit_dense.ops.upsampled_conv import convolve_upsampled

SIZES = {
    "halves": [(32, 48), (16, 24), (8, 12), (4, 6)],
    "odd": [(33, 47), (17, 24), (9, 12), (5, 6)],
    "pooled": [(9, 14), (1, 1), (2, 2), (3, 3), (6, 6)],
    "as fine or finer": [(7, 5), (7, 5), (6, 5), (9, 11), (3, 2)],
    "flat": [(1, 40), (1, 20), (1, 1)],
}


def plain(maps, weight, bias=None, align_corners=False):
    """Enlarges, concatenates and convolves."""
    size = maps[0].shape[2:]
    enlarged = [maps[0], *(F.interpolate(x, size, mode="bilinear", align_corners=align_corners) for x in maps[1:])]
    return F.conv2d(torch.cat(enlarged, 1), weight, bias, padding=weight.shape[2] // 2)


def inputs(sizes, kernel=3, dtype=torch.float64, batch=2):
    """Maps of 4, 5, 6, ... channels, a weight and a bias, which need gradients."""
    maps = [random_images(batch, 4 + number, *size) for number, size in enumerate(sizes)]
    channels = sum(x.shape[1] for x in maps)
    tensors = [*maps, random_images(7, channels, kernel, kernel) / (channels**0.5 * kernel), random_images(7)]
    *maps, weight, bias = (tensor.to(dtype).requires_grad_() for tensor in tensors)
    return maps, weight, bias


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients_are_those_of_the_plain_computation(sizes, kernel, align_corners):
    maps, weight, bias = inputs(sizes, kernel)
    expected = plain(maps, weight, bias, align_corners)
    found = convolve_upsampled(maps, weight, bias, align_corners)
    assert_close(found, expected, 1e-10)
    with torch.no_grad():
        assert_close(convolve_upsampled(maps, weight, bias, align_corners), expected, 1e-10)
    grad = random_images(*expected.shape).double()
    leaves = [*maps, weight, bias]
    for one, other in zip(torch.autograd.grad(found, leaves, grad), torch.autograd.grad(expected, leaves, grad)):
        assert_close(one, other, 1e-10)


@pytest.mark.parametrize("sizes", [SIZES["halves"], SIZES["odd"]], ids=["halves", "odd"])
def test_float32_is_as_exact_as_the_plain_computation(sizes):
    maps, weight, bias = inputs(sizes)
    exact = plain(maps, weight, bias)
    maps, weight, bias = inputs(sizes, dtype=torch.float32)
    found = convolve_upsampled(maps, weight, bias)
    assert found.dtype == torch.float32
    assert_close(found, exact, 1e-5)


def test_second_derivatives_are_right():
    maps, weight, _ = inputs([(5, 6), (3, 3), (2, 1)], batch=1)
    leaves = [x.detach()[:, :2].clone().requires_grad_() for x in maps]
    weight = weight.detach()[:2, :6].clone().requires_grad_()
    torch.autograd.gradgradcheck(lambda *tensors: convolve_upsampled(tensors[:-1], tensors[-1]), [*leaves, weight])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "views"])
def test_every_memory_layout_is_accepted(layout):
    maps, weight, bias = inputs(SIZES["odd"])
    if layout == "channels_last":
        changed = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    elif layout == "views":
        changed = [x.repeat_interleave(2, 3)[..., ::2] for x in maps]
    else:
        changed = maps
    assert_close(convolve_upsampled(changed, weight, bias), plain(maps, weight, bias), 1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_autocast_gives_its_dtype_and_leaves_the_input_unchanged(training):
    maps, weight, bias = inputs(SIZES["halves"], dtype=torch.float32)
    expected = plain(maps, weight, bias)
    before = [x.detach().clone() for x in maps]
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16):
        found = convolve_upsampled(maps, weight, bias)
    assert found.dtype == torch.bfloat16
    assert_close(found.float(), expected, 0.1)
    assert all(torch.equal(x, other) for x, other in zip(maps, before))
    if training:
        found.float().sum().backward()
        gradients = torch.autograd.grad(expected.sum(), maps)
        for x, gradient in zip(maps, gradients):
            assert_close(x.grad, gradient, 0.1)


def test_matrices_that_were_made_without_gradients_serve_a_training():
    maps, weight, bias = inputs([(31, 21), (13, 8)])
    with torch.inference_mode():
        convolve_upsampled(maps, weight, bias)
    convolve_upsampled(maps, weight, bias).sum().backward()
    assert all(tensor.grad is not None for tensor in [*maps, weight, bias])


def test_a_trace_and_a_graph_of_all_sizes_have_the_same_values():
    class Fusion(torch.nn.Module):
        def forward(self, *maps):
            return convolve_upsampled(maps, weight, bias)

    (fine, coarse), weight, bias = inputs([(16, 24), (8, 12)], batch=1)
    fine, coarse = fine.detach(), coarse.detach()
    weight, bias = weight.detach(), bias.detach()
    assert_close(torch.jit.trace(Fusion(), (fine, coarse))(fine, coarse), plain([fine, coarse], weight, bias), 1e-10)
    dims = ({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},) * 2
    graph = torch.export.export(Fusion(), (fine, coarse), dynamic_shapes=(dims,), strict=False).module()
    for height, width in itertools.product((10, 21), repeat=2):
        maps = [random_images(1, 4, 2 * height, 2 * width).double(), random_images(1, 5, height, width).double()]
        assert_close(graph(*maps), plain(maps, weight, bias), 1e-10)


def test_a_compiled_graph_has_no_breaks_and_the_same_gradients():
    maps, weight, bias = inputs([(16, 24), (8, 12), (3, 5)])
    compiled = torch.compile(convolve_upsampled, backend="aot_eager", fullgraph=True)
    found, expected = compiled(maps, weight, bias), plain(maps, weight, bias)
    assert_close(found, expected, 1e-10)
    leaves = [*maps, weight, bias]
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), leaves), torch.autograd.grad(expected.square().sum(), leaves)
    ):
        assert_close(one, other, 1e-10)


def test_a_kernel_without_a_centre_is_refused():
    with raises_user_error("2 x 2", "odd"):
        convolve_upsampled([torch.zeros(1, 1, 4, 4)], torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("kernel", [1, 3])
def test_transforms_of_torch_func_give_the_plain_result(kernel):
    maps = torch.rand(3, 1, 4, 8, 6).double(), torch.rand(3, 1, 5, 4, 3).double()
    weight = torch.rand(2, 9, kernel, kernel).double()
    expected = torch.stack([convolve_upsampled(pair, weight) for pair in zip(*maps)])
    found = torch.func.vmap(lambda *pair: convolve_upsampled(pair, weight))(*maps)
    torch.testing.assert_close(found, expected)
    first = [x[0] for x in maps]
    value, slope = torch.func.jvp(lambda x: convolve_upsampled(first, x), (weight,), (weight,))
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(slope, expected[0])  # the convolution is linear in the weight
