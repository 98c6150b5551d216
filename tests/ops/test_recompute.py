"""Layers in a row: their outputs and gradients, and the memory that they keep for the backward pass."""

import copy

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn

from tests.helpers.models import random_images, randomise
from xcit_dense.ops.norms import SyncBatchNorm
from xcit_dense.ops.recompute import PerPosition
from xcit_dense.ops.recompute import run as run_layers

C = 8  # channels of the input
FLOATS = (torch.float32, torch.float64)


def conv(stride=1, groups=1):
    return nn.Conv2d(C, 2 * C, 3, stride, padding=1, groups=groups, bias=stride == 1)


ROWS = {
    "mlp": lambda: (LayerNorm2d(C), nn.Linear(C, 3 * C), nn.GELU(), nn.Linear(3 * C, C)),
    "linear without bias": lambda: (nn.GELU(), nn.Linear(C, C, bias=False)),
    "gelu of tanh": lambda: (nn.GELU(approximate="tanh"), nn.Linear(C, C)),
    "gelu after the product": lambda: (nn.Linear(C, C), nn.GELU(), conv(), nn.GELU(approximate="tanh")),
    "uneven strides": lambda: (nn.GELU(), nn.Conv2d(C, 2 * C, (3, 2), stride=(2, 3), padding=(1, 0))),
    "lpi": lambda: (LayerNorm2d(C), conv(groups=C), nn.GELU(), nn.BatchNorm2d(2 * C), nn.Conv2d(2 * C, C, 1)),
    "stem": lambda: (
        nn.Sequential(conv(2), SyncBatchNorm(2 * C)),
        nn.GELU(),
        nn.Conv2d(2 * C, C, 3),
    ),
    "level": lambda: (
        *(nn.ConvTranspose2d(C, 2 * C, 2, 2), nn.BatchNorm2d(2 * C), nn.GELU()),
        nn.ConvTranspose2d(2 * C, C, 2, 2),
    ),
    "without statistics": lambda: (nn.BatchNorm2d(C, track_running_stats=False), conv()),
    "only steps": lambda: (nn.BatchNorm2d(C), nn.GELU()),
    "nothing": lambda: (nn.Identity(),),
    "steps after the product": lambda: (conv(), nn.BatchNorm2d(2 * C), nn.GELU()),
    "dropout": lambda: (nn.GELU(), nn.Dropout(0.5), nn.Linear(C, C)),
    "an unknown layer": lambda: (nn.GELU(), nn.Softplus(), nn.Linear(C, C)),
}
every_row = pytest.mark.parametrize("row", ROWS)


class AsMaps(nn.Module):
    """A linear layer at each position, computed by PyTorch."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x):
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


def run(layers, x, gain=None):
    """Calls `xcit_dense.ops.recompute.run` with linear layers at each position."""
    return run_layers([PerPosition(layer) if isinstance(layer, nn.Linear) else layer for layer in layers], x, gain)


def plain(layers, x, gain=None):
    """Computes the layers by PyTorch, without recomputation."""
    y = nn.Sequential(*(AsMaps(layer) if isinstance(layer, nn.Linear) else layer for layer in layers))(x)
    return y if gain is None else y * gain[:, None, None]


@pytest.fixture(autouse=True, params=["linear layers", "convolutions"])
def linear_layers(request, monkeypatch):
    """Runs each test with linear layers as matrix products, and as convolutions, as on several cores."""
    as_convolutions = request.param == "convolutions"
    monkeypatch.setattr(
        "xcit_dense.ops.conv._is_faster_as_convolution",
        lambda device, dtype: as_convolutions and dtype == torch.float32,
    )


def make_row(row, dtype=torch.float32):
    """Makes the layers of a row with random weights, in training mode."""
    return randomise(nn.ModuleList(ROWS[row]())).to(dtype)


@pytest.fixture
def x():
    """Two maps in channels-last memory."""
    return random_images(2, C, 6, 5).contiguous(memory_format=torch.channels_last)


def learn(way, layers, x, gain=None, autocast=None):
    """Runs forward and backward; returns output, all gradients and buffers."""
    layers, x = copy.deepcopy(layers), x.clone().requires_grad_()
    gain = gain if gain is None else gain.clone().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = way(layers, x, gain)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y))
    found = {"y": y.detach(), "x": x.grad} | {name: value.grad for name, value in layers.named_parameters()}
    return found | {"gain": None if gain is None else gain.grad} | dict(layers.named_buffers())


@every_row
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("training", [True, False])
def test_layers_in_a_row_have_the_outputs_and_gradients_of_a_sequential(x, row, dtype, training):
    layers = make_row(row, dtype).train(training)
    expected, found = (learn(way, layers, x.to(dtype)) for way in (plain, run))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("row", ["mlp", "lpi", "linear without bias", "dropout"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gain_multiplies_the_channels_of_the_last_layer(x, row, dtype):
    layers, gain = make_row(row, dtype), torch.linspace(0, 2, C, dtype=dtype)
    expected, found = (learn(way, layers, x.to(dtype), gain) for way in (plain, run))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("row", ["mlp", "lpi"])
def test_autocast_rounds_as_in_a_sequential(x, row, dtype):
    layers, gain = make_row(row), torch.linspace(0.5, 2, C)
    exact, expected = (learn(plain, layers, x, gain, autocast) for autocast in (None, dtype))
    found = learn(run, layers, x, gain, dtype)
    for name, value in found.items():
        if value is None or not value.is_floating_point():
            continue
        assert value.dtype == expected[name].dtype or name == "y", name
        error, theirs = ((result[name] - exact[name]).norm() for result in (found, expected))
        assert error <= 1.5 * theirs + torch.finfo(dtype).eps * exact[name].norm() / 4, name


def test_a_small_gain_keeps_its_digits_in_fp16(x):
    # 1e-6 times a weight underflows in fp16.
    layers, gain = randomise(nn.ModuleList([nn.Linear(C, C)])), torch.full((C,), 1e-6)
    with torch.autocast("cpu", torch.float16):
        y = run(layers, x, gain)
    torch.testing.assert_close(y.float(), plain(layers, x, gain), rtol=1e-2, atol=1e-8)


@pytest.mark.parametrize("row", ["mlp", "lpi", "level"])
def test_second_derivatives_are_the_derivatives_of_the_first(row):
    # Two maps, because PyTorch's second derivative of batch norm is wrong for one map.
    layers, x = make_row(row, torch.float64), random_images(2, C, 3, 2).double().requires_grad_()
    weights = [value for name, value in layers.named_parameters() if name.endswith("weight")][1:2]
    assert torch.autograd.gradcheck(lambda x, *_: run(layers, x), (x, *weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x, *_: run(layers, x), (x, *weights), fast_mode=True)


def kept(way, layers, x):
    """Counts the bytes kept for the backward pass, without parameters and buffers."""
    own = {value.untyped_storage().data_ptr() for value in (*layers.parameters(), *layers.buffers())}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = tensor, storage.nbytes()  # the tensor is kept, so that its memory is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        way(layers, x)
    return sum(size for pointer, (_, size) in sizes.items() if pointer not in own)


@pytest.mark.parametrize(
    ("row", "channels"),
    [("mlp", C + 3 * C), ("lpi", C + 2 * C), ("level", C + 4 * 2 * C), ("dropout", None)],
)
def test_only_inputs_of_steps_are_kept(x, row, channels):
    layers = make_row(row)
    growth = {}
    for way in (run, plain):
        small, large = (kept(way, layers, maps.clone().requires_grad_()) for maps in (x, torch.cat((x, x))))
        growth[way] = (large - small) / (x.numel() // C) / 4
    if channels is not None:
        assert growth[run] == channels
        assert growth[plain] > 1.6 * channels
    assert growth[run] <= growth[plain]


def test_frozen_layers_do_not_get_gradients(x):
    layers = make_row("lpi").requires_grad_(False)
    assert not run(layers, x).requires_grad
    y = run(layers, x.requires_grad_())
    y.sum().backward()
    assert x.grad is not None
    assert all(value.grad is None for value in layers.parameters())


@every_row
def test_without_gradients_the_output_is_the_same(x, row):
    layers = make_row(row).eval()
    with torch.no_grad():
        y = run(layers, x)
    torch.testing.assert_close(y, run(layers, x), rtol=1e-5, atol=1e-5)


@every_row
def test_maps_stay_in_channels_last_memory(x, row):
    assert run(make_row(row), x).is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert run(make_row(row), x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("row", ["mlp", "lpi", "level"])
def test_maps_in_other_memory_give_the_same(x, row):
    layers = make_row(row)
    expected, found = (learn(run, layers, maps) for maps in (x, x.contiguous()))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("row", ["mlp", "lpi", "level"])
def test_a_trace_records_plain_layers(x, row):
    layers = make_row(row).eval()

    class Row(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return run(self.layers, x)

    traced = torch.jit.trace(Row(), x, check_trace=False)
    other = torch.cat((x, x))
    torch.testing.assert_close(traced(other), run(layers, other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", ["mlp", "lpi", "level"])
def test_differentiable_gradients_are_the_same(x, row):
    layers, x = make_row(row, torch.float64), x.double().requires_grad_()
    value = run(layers, x * x.sin()).square().sum()
    wanted = [x, *layers.parameters()]
    once, again = (torch.autograd.grad(value, wanted, create_graph=more, retain_graph=True) for more in (False, True))
    torch.testing.assert_close(again, once, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"affine": False}, {"affine": False, "track_running_stats": False}], ids=str)
def test_norms_without_affine_map_have_the_gradients_of_a_sequential(x, options):
    layers = nn.ModuleList([nn.BatchNorm2d(C, **options), conv()])
    expected, found = (learn(way, layers, x) for way in (plain, run))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
