"""mmcv's mask of PSANet agrees with plain loops, and its gradient with finite differences."""

import itertools

import pytest
import torch

pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches import mmcv_ext

KINDS = ["collect", "distribute"]


@pytest.fixture(scope="module")
def ops():
    mmcv_ext.install()
    import mmcv.ops

    return mmcv.ops


def weights(mask, size, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = (batch, mask[0] * mask[1], *size)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def loop_psamask(x, kind, mask, size):
    output = torch.zeros(len(x), size[0] * size[1], *size, dtype=x.dtype)
    for image, y, x_, row, column in itertools.product(range(len(x)), *map(range, (*size, *mask))):
        i, j = y + row - (mask[0] - 1) // 2, x_ + column - (mask[1] - 1) // 2
        if 0 <= i < size[0] and 0 <= j < size[1]:
            weight = x[image, row * mask[1] + column, y, x_]
            if kind == "collect":
                output[image, i * size[1] + j, y, x_] = weight
            else:
                output[image, y * size[1] + x_, i, j] = weight
    return output


@pytest.mark.parametrize("mask", [(3, 3), (5, 9), (2, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_psamask_follows_the_definition(ops, kind, mask):
    size = (3, 4)
    x = weights(mask, size)
    torch.testing.assert_close(ops.PSAMask(kind, mask)(x), loop_psamask(x, kind, mask, size))


@pytest.mark.parametrize("kind", KINDS)
def test_psamask_passes_gradcheck(ops, kind):
    layer = ops.PSAMask(kind, (3, 5))
    assert torch.autograd.gradcheck(layer, weights((3, 5), (3, 4), batch=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_dtype_is_moved_without_rounding(ops, dtype):
    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    x = weights((3, 3), (3, 4), dtype=dtype)
    output = ops.PSAMask("collect", (3, 3))(x)
    output.sum().backward()
    assert output.dtype == x.grad.dtype == dtype
    assert torch.equal(output.double(), ops.PSAMask("collect", (3, 3))(x.double()))


def test_inputs_that_are_not_contiguous_give_the_same_result(ops):
    if not mmcv_ext.serving():
        pytest.skip("this mmcv has compiled operators")
    x = weights((3, 3), (3, 4)).detach()
    layer = ops.PSAMask("distribute", (3, 3))
    turned = x.to(memory_format=torch.channels_last).requires_grad_()
    output = layer(turned)
    assert torch.equal(output, layer(x))
    output.backward(output.detach().transpose(2, 3).contiguous().transpose(2, 3))
    assert turned.grad.abs().sum() > 0


def test_psamask_is_deterministic_and_takes_an_empty_batch(ops):
    torch.use_deterministic_algorithms(True)
    try:
        x = weights((3, 3), (3, 4), batch=0)
        output = ops.PSAMask("collect", (3, 3))(x)
        output.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert output.shape == (0, 12, 3, 4)
    assert x.grad.shape == x.shape
