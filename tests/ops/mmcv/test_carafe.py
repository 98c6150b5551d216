"""mmcv's CARAFE agrees with plain loops, and its gradients with finite differences."""

import itertools

import pytest
import torch

pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches import mmcv_ext

KERNEL, GROUPS, SCALE = 3, 2, 2


@pytest.fixture(scope="module")
def ops():
    mmcv_ext.install()
    import mmcv.ops

    if not mmcv_ext.serving():
        pytest.skip("a compiled mmcv has CARAFE on GPUs only")
    return mmcv.ops


def operands(dtype=torch.float64, batch=2, channels=4, size=(3, 4), kernel=KERNEL, groups=GROUPS, scale=SCALE):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, channels, *size), (batch, groups * kernel**2, *(scale * side for side in size))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def loop_carafe(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    output = features.new_zeros(batch, channels, height * scale, width * scale)
    for image, channel, y, x in itertools.product(*map(range, output.shape)):
        group = channel // (channels // groups)
        total = 0
        for row, column in itertools.product(range(kernel), range(kernel)):
            i, j = y // scale + row - kernel // 2, x // scale + column - kernel // 2
            if 0 <= i < height and 0 <= j < width:
                weight = masks[image, group * kernel**2 + row * kernel + column, y, x]
                total = total + features[image, channel, i, j] * weight
        output[image, channel, y, x] = total
    return output


@pytest.mark.parametrize(("kernel", "groups", "scale"), [(3, 2, 2), (5, 1, 2), (1, 4, 3), (3, 1, 1)])
@pytest.mark.parametrize("name", ["carafe", "carafe_naive"])
def test_carafe_follows_the_definition(ops, name, kernel, groups, scale):
    features, masks = operands(kernel=kernel, groups=groups, scale=scale)
    ours = getattr(ops, name)(features, masks, kernel, groups, scale)
    torch.testing.assert_close(ours, loop_carafe(features, masks, kernel, groups, scale))


def test_carafe_passes_gradcheck(ops):
    inputs = operands(batch=1, channels=2)
    assert torch.autograd.gradcheck(lambda *inputs: ops.carafe(*inputs, KERNEL, GROUPS, SCALE), inputs, fast_mode=True)


def test_the_naive_operator_gives_the_same_gradients(ops):
    from mmcv import _ext

    features, masks = operands()
    grad = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    ops.carafe(features, masks, KERNEL, GROUPS, SCALE).backward(grad)
    # mmcv's function of the naive operator refuses to compute gradients on a CPU.
    of_features, of_masks = torch.zeros_like(features), torch.zeros_like(masks)
    _ext.carafe_naive_backward(
        grad,
        features.detach(),
        masks.detach(),
        of_features,
        of_masks,
        kernel_size=KERNEL,
        group_size=GROUPS,
        scale_factor=SCALE,
    )
    assert torch.equal(of_features, features.grad)
    assert torch.equal(of_masks, masks.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_only_rounds_the_result(ops, dtype):
    inputs = operands(dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ours, expected = (ops.carafe(*tensors, KERNEL, GROUPS, SCALE) for tensors in (inputs, exact))
    ours.sum().backward()
    expected.sum().backward()
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    for one, other in zip(inputs, exact):
        torch.testing.assert_close(one.grad, other.grad.to(dtype))


def test_inputs_that_are_not_contiguous_give_the_same_gradients(ops):
    inputs = operands()
    turned = [tensor.detach().to(memory_format=torch.channels_last).requires_grad_() for tensor in inputs]
    for tensors in (inputs, turned):
        ops.carafe(*tensors, KERNEL, GROUPS, SCALE).square().sum().backward()
    for one, other in zip(inputs, turned):
        torch.testing.assert_close(other.grad, one.grad)


def test_a_batch_without_images_gives_an_empty_result(ops):
    features, masks = operands(batch=0)
    output = ops.carafe(features, masks, KERNEL, GROUPS, SCALE)
    output.sum().backward()
    assert output.shape == (0, 4, 6, 8)
    assert features.grad.shape == features.shape


def test_the_upsampling_layer_trains_under_autocast_and_deterministic_algorithms(ops):
    layer = ops.CARAFEPack(4, 2, compressed_channels=4)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(torch.randn(2, 4, 5, 6))
        output.float().square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert output.shape == (2, 4, 10, 12)
    assert all(parameter.grad is not None for parameter in layer.parameters())
