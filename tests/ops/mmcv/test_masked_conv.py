"""mmcv's masked convolution is the convolution at the cells of the mask, and zero elsewhere."""

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.patches import mmcv_ext


@pytest.fixture(scope="module")
def ops():
    mmcv_ext.install()
    import mmcv.ops

    if not mmcv_ext.serving():
        pytest.skip("a compiled mmcv has the masked convolution on GPUs only")
    return mmcv.ops


def operands(kernel, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((1, 3, 5, 6), (4, 3, *kernel), (4,))
    )
    mask = torch.rand(1, 5, 6, generator=generator) > 0.5
    return x, mask, weight, bias


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), (1, 1)), ((1, 1), (0, 0)), ((5, 3), (2, 1))])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_cells_of_the_mask_are_convolved(ops, kernel, padding, layout):
    x, mask, weight, bias = operands(kernel)
    ours = ops.masked_conv2d(x.to(memory_format=layout), mask.double(), weight, bias, padding)
    torch.testing.assert_close(ours, F.conv2d(x, weight, bias, padding=padding) * mask[:, None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_layer_works_under_autocast_and_deterministic_algorithms(ops, dtype):
    layer = ops.MaskedConv2d(3, 4, 3, padding=1)
    x, mask, _, _ = operands((3, 3), torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype):
            ours, convolved = layer(x, mask.float()), layer(x)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(ours, (convolved * mask[:, None]).to(ours.dtype), atol=2e-2, rtol=2e-2)


def test_a_mask_without_cells_gives_zeros(ops):
    x, mask, weight, bias = operands((3, 3))
    output = ops.masked_conv2d(x, torch.zeros_like(mask).double(), weight, bias, 1)
    assert torch.equal(output, torch.zeros(1, 4, 5, 6, dtype=torch.float64))


def test_a_cell_outside_of_the_output_is_refused(ops):
    x, mask, weight, bias = operands((3, 3))
    with pytest.raises(IndexError):
        ops.masked_conv2d(x, torch.ones_like(mask).double(), weight, bias, 0)
