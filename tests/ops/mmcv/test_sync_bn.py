"""mmcv's synchronized batch norm agrees with PyTorch's batch norm."""

import pytest
import torch
import torch.distributed as dist


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory):
    """A process group of one process, which mmcv's layer needs."""
    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def layers(mmcv_ops, **options):
    """mmcv's layer and PyTorch's layer with the same random parameters."""
    ours, expected = mmcv_ops.SyncBatchNorm(3, **options), torch.nn.BatchNorm2d(3, **options)
    generator = torch.Generator().manual_seed(0)
    for name in ("weight", "bias"):
        values = torch.rand(3, generator=generator) + 0.5
        for layer in (ours, expected):
            getattr(layer, name).data.copy_(values)
    return ours, expected


def features(dtype=torch.float32):
    return (torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(1)) * 2 + 3).to(dtype).requires_grad_()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "eps": 1e-2}, {"track_running_stats": False}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("deterministic")
def test_values_gradients_and_running_statistics_are_those_of_pytorch(mmcv_ops, options, layout):
    results = []
    for layer in layers(mmcv_ops, **options):
        x = features()
        output = layer(x.to(memory_format=layout))
        slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        output.backward(slope)
        results.append((output, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var))
    for ours, expected in zip(*results):
        if expected is not None:
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_only_rounds_the_result(mmcv_ops):
    layer, _ = layers(mmcv_ops)
    x = features(torch.float16)
    exact = x.detach().float().requires_grad_()
    for tensor in (x, exact):
        layer(tensor).float().square().sum().backward()
    torch.testing.assert_close(layer(x), layer(exact).half())
    torch.testing.assert_close(x.grad, exact.grad.half(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("mode", ["default", "N"])
def test_a_batch_without_images_leaves_the_statistics_alone(mmcv_ops, mode):
    layer = mmcv_ops.SyncBatchNorm(3, stats_mode=mode)
    x = torch.zeros(0, 3, 5, 6, requires_grad=True)
    output = layer(x)
    output.sum().backward()
    assert output.shape == x.grad.shape == (0, 3, 5, 6)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_two_processes_have_the_statistics_of_their_batches_together(mmcv_ops):
    """The sums that mmcv exchanges between processes, computed in one process."""
    from mmcv import _ext

    parts = features().detach().flatten(2).chunk(2)
    together = torch.cat(parts)
    means, variances = torch.zeros(2, 3), torch.zeros(2, 3)
    for part, mean in zip(parts, means):
        _ext.sync_bn_forward_mean(part, mean)
    for part, variance in zip(parts, variances):
        _ext.sync_bn_forward_var(part, means.mean(0), variance)
    torch.testing.assert_close(means.mean(0), together.mean((0, 2)))
    torch.testing.assert_close(variances.mean(0), together.var((0, 2), unbiased=False))
    running = [torch.zeros(3), torch.ones(3)]
    empty = [torch.zeros_like(parts[0]), torch.zeros(3), torch.zeros_like(parts[0])]
    _ext.sync_bn_forward_output(
        parts[0],
        means.mean(0),
        variances.mean(0),
        torch.ones(3),
        torch.zeros(3),
        *running,
        *empty,
        eps=0.0,
        momentum=torch.tensor([1.0]),
        group_size=2,
    )
    torch.testing.assert_close(running[1], together.var((0, 2)))
