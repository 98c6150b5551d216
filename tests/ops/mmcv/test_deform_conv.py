"""mmcv's deformable convolutions agree with plain loops, and their gradients with finite differences."""

import itertools
import math

import pytest
import torch

pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches import mmcv_ext

# in_channels, out_channels, stride, padding, dilation, groups, deform_groups
GEOMETRIES = {
    "plain": (2, 3, (1, 1), (1, 1), (1, 1), 1, 1),
    "strided and dilated": (2, 2, (2, 1), (2, 1), (1, 2), 1, 1),
    "grouped": (4, 2, (1, 1), (0, 1), (1, 1), 2, 2),
    "more deformable groups than groups": (4, 3, (1, 2), (1, 1), (1, 1), 1, 4),
}
KERNEL = (3, 2)


@pytest.fixture(scope="module")
def ops():
    mmcv_ext.install()
    import mmcv.ops

    return mmcv.ops


def operands(geometry, batch=2, dtype=torch.float64):
    """Features, offsets, masks, weights and biases."""
    channels, out_channels, stride, padding, dilation, groups, deform_groups = geometry
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    size = (5, 6)
    out = [
        (size[i] + 2 * padding[i] - dilation[i] * (KERNEL[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]  # the size of the output
    cells = deform_groups * math.prod(KERNEL)
    return (
        random(batch, channels, *size),
        random(batch, 2 * cells, *out),
        random(batch, cells, *out),
        random(out_channels, channels // groups, *KERNEL),
        random(out_channels),
    )


def value_at(plane, y, x):
    """Bilinear value with zeros outside."""
    total = 0.0
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


def loop_deform_conv(geometry, x, offset, mask, weight, bias):
    channels, out_channels, stride, padding, dilation, groups, deform_groups = geometry
    output = torch.zeros(len(x), out_channels, *offset.shape[2:], dtype=x.dtype)
    for place in itertools.product(*map(range, output.shape)):
        image, out_channel, i, j = place
        total = bias[out_channel].item() if bias is not None else 0.0
        first = out_channel // (out_channels // groups) * (channels // groups)
        for c, row, column in itertools.product(range(channels // groups), *map(range, KERNEL)):
            cell = (first + c) // (channels // deform_groups) * math.prod(KERNEL) + row * KERNEL[1] + column
            y = i * stride[0] - padding[0] + row * dilation[0] + offset[image, 2 * cell, i, j].item()
            x_ = j * stride[1] - padding[1] + column * dilation[1] + offset[image, 2 * cell + 1, i, j].item()
            factor = mask[image, cell, i, j].item() if mask is not None else 1.0
            total += weight[out_channel, c, row, column].item() * factor * value_at(x[image, first + c], y, x_)
        output[place] = total
    return output


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_deform_conv_follows_the_definition(ops, geometry):
    x, offset, _, weight, _ = operands(geometry)
    ours = ops.deform_conv2d(x, offset, weight, *geometry[2:])
    torch.testing.assert_close(ours, loop_deform_conv(geometry, x, offset, None, weight, None))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_modulated_deform_conv_follows_the_definition(ops, geometry, with_bias):
    x, offset, mask, weight, bias = operands(geometry)
    bias = bias if with_bias else None
    ours = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry[2:])
    torch.testing.assert_close(ours, loop_deform_conv(geometry, x, offset, mask, weight, bias))


@pytest.mark.parametrize("geometry", [GEOMETRIES["plain"], GEOMETRIES["grouped"]])
def test_both_pass_gradcheck(ops, geometry):
    x, offset, mask, weight, bias = operands(geometry, batch=1)
    assert torch.autograd.gradcheck(
        lambda *inputs: ops.deform_conv2d(*inputs, *geometry[2:]), (x, offset, weight), fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda *inputs: ops.modulated_deform_conv2d(*inputs, *geometry[2:]),
        (x, offset, mask, weight, bias),
        fast_mode=True,
    )


def test_offsets_of_zero_get_mmcvs_derivative_at_the_edge(ops):
    """A derivative has a jump at each whole cell. It is 0 in row and column -1, and from the right elsewhere."""
    x = torch.ones(1, 1, 3, 3)
    inner = torch.tensor([0.0, 1, 1, 1, 0])
    last = torch.tensor([0.0, 0, 0, -1, 0])
    for function, mask in ((ops.deform_conv2d, ()), (ops.modulated_deform_conv2d, (torch.ones(1, 1, 5, 5),))):
        offset = torch.zeros(1, 2, 5, 5, requires_grad=True)
        bias = (None,) if mask else ()
        function(x, offset, *mask, torch.ones(1, 1, 1, 1), *bias, 1, 1).sum().backward()
        assert torch.equal(offset.grad[0, 0], last[:, None] * inner)
        assert torch.equal(offset.grad[0, 1], inner[:, None] * last)


def test_larger_offsets_and_masks_are_read_one_value_after_another(ops):
    """As mmcv's kernels read them. MMDetection's DyHead needs it."""
    geometry = GEOMETRIES["grouped"]
    x, offset, mask, weight, bias = operands(geometry)
    larger = [
        torch.cat([tensor.flatten(1), torch.ones_like(tensor).flatten(1)], 1).view(2, -1, 2 * size[0], size[1])
        for tensor, size in ((offset, offset.shape[2:]), (mask, mask.shape[2:]))
    ]
    larger = [tensor.detach().requires_grad_() for tensor in larger]
    results = [ops.modulated_deform_conv2d(x, *pair, weight, bias, *geometry[2:]) for pair in ((offset, mask), larger)]
    for result in results:
        result.square().sum().backward()
    assert torch.equal(*results)
    for one, other in zip((offset, mask), larger):
        read, rest = other.grad.flatten(1).chunk(2, 1)
        assert torch.equal(read, one.grad.flatten(1))
        assert not rest.any()


def test_smaller_offsets_are_refused(ops):
    geometry = GEOMETRIES["plain"]
    x, offset, mask, weight, bias = operands(geometry)
    with pytest.raises(RuntimeError, match="offset"):
        ops.modulated_deform_conv2d(x, offset[:, :, 1:], mask[:, :, 1:], weight, bias, *geometry[2:])


def test_the_gradient_of_the_weights_does_not_need_the_other_gradients(ops):
    x, offset, _, weight, _ = operands(GEOMETRIES["grouped"])
    arguments = GEOMETRIES["grouped"][2:]
    ops.deform_conv2d(x, offset, weight, *arguments).square().sum().backward()
    alone = weight.detach().clone().requires_grad_()
    ops.deform_conv2d(x.detach(), offset.detach(), alone, *arguments).square().sum().backward()
    torch.testing.assert_close(alone.grad, weight.grad)


def test_a_second_backward_pass_of_the_graph_gives_its_own_gradients(ops):
    x, offset, _, weight, _ = operands(GEOMETRIES["plain"])
    output = ops.deform_conv2d(x, offset, weight, *GEOMETRIES["plain"][2:])
    first = torch.autograd.grad(output.sum(), (x, offset, weight), retain_graph=True)
    second = torch.autograd.grad(3 * output.sum(), (x, offset, weight))
    for one, other in zip(first, second):
        torch.testing.assert_close(3 * one, other)


def test_im2col_step_does_not_change_the_result(ops):
    x, offset, _, weight, _ = operands(GEOMETRIES["plain"], batch=4)
    results = [ops.deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1, False, step) for step in (1, 2, 32)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_gradients_are_added_to_the_tensors_passed(ops):
    from mmcv import _ext

    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    x, offset, _, weight, _ = (tensor.detach() for tensor in operands(GEOMETRIES["plain"]))
    grad_output = torch.ones(2, 3, *offset.shape[2:], dtype=torch.float64)
    names = ("kW", "kH", "dW", "dH", "padW", "padH", "dilationW", "dilationH", "group", "deformable_group")
    numbers = dict(zip(names, (2, 3, 1, 1, 1, 1, 1, 1, 1, 1)), im2col_step=2)
    once, scaled = torch.zeros_like(weight), torch.ones_like(weight)
    for grad_weight, scale in ((once, 1), (scaled, 0.5)):
        empty = [x.new_empty(0), x.new_empty(0)]
        _ext.deform_conv_backward_parameters(x, offset, grad_output, grad_weight, *empty, scale=scale, **numbers)
    assert once.abs().sum() > 0
    torch.testing.assert_close(scaled, 1 + 0.5 * once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_only_rounds_the_result(ops, dtype):
    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    geometry = GEOMETRIES["grouped"]
    inputs = operands(geometry, dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ours = ops.modulated_deform_conv2d(*inputs, *geometry[2:])
    expected = ops.modulated_deform_conv2d(*exact, *geometry[2:])
    ours.sum().backward()
    expected.sum().backward()
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    for one, other in zip(inputs, exact):
        torch.testing.assert_close(one.grad, other.grad.to(dtype))


def test_inputs_that_are_not_contiguous_give_the_same_result(ops):
    geometry = GEOMETRIES["plain"]
    x, offset, mask, weight, bias = operands(geometry)
    expected = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry[2:])
    turned = [tensor.detach().to(memory_format=torch.channels_last) for tensor in (x, offset, mask, weight)]
    torch.testing.assert_close(ops.modulated_deform_conv2d(*turned, bias, *geometry[2:]), expected)


def test_a_batch_without_images_gives_an_empty_result(ops):
    from mmcv import _ext

    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    x, offset, mask, weight, bias = (tensor.detach() for tensor in operands(GEOMETRIES["plain"], batch=0))
    output, grads = x.new_empty(0, 3, *offset.shape[2:]), [torch.ones_like(tensor) for tensor in (x, weight, bias)]
    names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w")
    numbers = dict(zip(names, (*KERNEL, 1, 1, 1, 1, 1, 1)), group=1, deformable_group=1, with_bias=True)
    # mmcv's Python function refuses a batch without images, so the operators are called directly.
    _ext.modulated_deform_conv_forward(x, weight, bias, x, offset, mask, output, x, **numbers)
    _ext.modulated_deform_conv_backward(
        x, weight, bias, x, offset, mask, x, *grads, torch.ones_like(offset), torch.ones_like(mask), output, **numbers
    )
    assert all(torch.equal(grad, torch.ones_like(grad)) for grad in grads)


@pytest.mark.parametrize("name", ["DeformConv2dPack", "ModulatedDeformConv2dPack"])
def test_layers_train_under_autocast_and_deterministic_algorithms(ops, name):
    layer = getattr(ops, name)(4, 4, 3, padding=1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(torch.randn(2, 4, 5, 6))
        output.float().square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert output.dtype == torch.bfloat16
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_switchable_atrous_convolution_trains(ops):
    layer = ops.SAConv2d(4, 4, 3, padding=1, use_deform=True)
    output = layer(torch.randn(2, 4, 8, 8))
    output.square().sum().backward()
    assert output.shape == (2, 4, 8, 8)
    assert layer.weight.grad.abs().sum() > 0
