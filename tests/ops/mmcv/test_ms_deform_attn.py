"""Multi-scale deformable attention agrees with plain loops and with mmcv's own Python function."""

import itertools

import pytest
import torch

SHAPES = [(4, 5), (2, 3)]
BATCH, HEADS, WIDTH, QUERIES, POINTS = 2, 2, 3, 3, 2


def example(dtype=torch.float64):
    """Values, points (some outside the level) and weights."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(rows * columns for rows, columns in SHAPES)
    value = torch.randn(BATCH, cells, HEADS, WIDTH, generator=generator, dtype=torch.float64)
    size = (BATCH, QUERIES, HEADS, len(SHAPES), POINTS)
    locations = torch.rand(*size, 2, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(size, generator=generator, dtype=torch.float64)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (value, locations, weights))


def levels():
    return torch.tensor(SHAPES), torch.tensor([0, SHAPES[0][0] * SHAPES[0][1]])


def attend(value, locations, weights):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    return MultiScaleDeformableAttnFunction.apply(value, *levels(), locations, weights, 64)


def loop_attend(value, locations, weights):
    result = torch.zeros(BATCH, QUERIES, HEADS, WIDTH, dtype=torch.float64)
    starts = levels()[1].tolist()
    for image, query, head, level, point in itertools.product(
        range(BATCH), range(QUERIES), range(HEADS), range(len(SHAPES)), range(POINTS)
    ):
        rows, columns = SHAPES[level]
        x, y = locations[image, query, head, level, point].tolist()
        x, y = x * columns - 0.5, y * rows - 0.5
        for row, column in itertools.product(range(rows), range(columns)):
            near = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
            cell = value[image, starts[level] + row * columns + column, head]
            result[image, query, head] += weights[image, query, head, level, point] * near * cell
    return result.flatten(2)


@pytest.fixture(params=["by default", "deterministic"])
def mode(request):
    """Both ways in which the operator computes."""
    if request.param == "deterministic":
        request.getfixturevalue("deterministic")


@pytest.mark.usefixtures("mmcv_ops", "mode")
class TestAttention:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_follows_the_definition(self, dtype):
        from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

        inputs = example(dtype)
        ours = attend(*inputs)
        torch.testing.assert_close(ours, loop_attend(*(tensor.detach().double() for tensor in inputs)).to(dtype))
        fallback = multi_scale_deformable_attn_pytorch(inputs[0], levels()[0], *inputs[1:])
        torch.testing.assert_close(ours, fallback)
        slope = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        for gradient, expected in zip(
            torch.autograd.grad(ours, inputs, slope), torch.autograd.grad(fallback, inputs, slope)
        ):
            torch.testing.assert_close(gradient, expected)

    def test_passes_gradcheck(self):
        assert torch.autograd.gradcheck(attend, example(), fast_mode=True)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_lower_precision_only_rounds_its_result(self, dtype):
        inputs = example(dtype)
        exact = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
        ours, expected = attend(*inputs), attend(*exact)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, expected.to(dtype))
        gradients = torch.autograd.grad(ours.sum(), inputs)
        for gradient, other in zip(gradients, torch.autograd.grad(expected.sum(), exact)):
            assert gradient.dtype == dtype
            torch.testing.assert_close(gradient, other.to(dtype))

    def test_trains_under_autocast_with_points_in_single_precision(self):
        value, locations, weights = (tensor.detach().float().requires_grad_() for tensor in example())
        layer = torch.nn.Linear(WIDTH, WIDTH)
        with torch.autocast("cpu", torch.bfloat16):
            result = attend(layer(value), locations, weights)
        result.float().square().sum().backward()
        assert result.dtype == torch.bfloat16
        assert locations.grad.dtype == weights.grad.dtype == torch.float32
        assert all(tensor.grad.abs().sum() > 0 for tensor in (value, locations, weights, layer.weight))

    def test_reads_tensors_with_gaps_in_memory(self):
        inputs = [tensor.detach() for tensor in example()]
        gaps = [torch.stack([tensor, tensor], -1)[..., 0] for tensor in inputs]
        torch.testing.assert_close(attend(*gaps), attend(*inputs))

    def test_without_queries_is_empty(self):
        value, locations, weights = example()
        result = attend(value, locations[:, :0], weights[:, :0])
        result.sum().backward()
        assert result.shape == (BATCH, 0, HEADS * WIDTH)
        assert torch.equal(value.grad, torch.zeros_like(value))

    def test_gives_zero_for_points_far_outside(self):
        value, locations, weights = (tensor.detach() for tensor in example(torch.float32))
        for far in (1e6, -1e6):
            result = attend(value, torch.full_like(locations, far), weights)
            assert torch.equal(result, torch.zeros(BATCH, QUERIES, HEADS * WIDTH))
