"""The layer with Winograd's convolution: what is exchanged, and that outputs, gradients and weights stay."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.helpers.models import assert_close
from xcit_dense.ops.winograd_conv import WinogradConv2d, use_winograd

# The largest difference. The standard deviation of the differences is a tenth of it.
TOLERANCE = 5e-5


def model_and_images():
    torch.manual_seed(0)
    first, second = nn.Conv2d(128, 160, 3, padding=1), nn.Conv2d(160, 128, 3, padding=1, bias=False)
    model = nn.Sequential(first, nn.ReLU(inplace=True), second)
    return model, torch.randn(1, 128, 48, 45)


def test_only_large_3_x_3_convolutions_of_pytorchs_type_are_exchanged():
    class Other(nn.Conv2d):
        pass

    hooked = nn.Conv2d(128, 128, 3, padding=1)
    hooked.register_forward_hook(lambda module, inputs, output: None)
    left = [
        hooked,
        Other(128, 128, 3, padding=1),
        parametrizations.weight_norm(nn.Conv2d(128, 128, 3, padding=1)),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding="same"),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
    ]
    types = [type(layer) for layer in left]
    layer = nn.Conv2d(128, 128, 3, padding=1)
    assert use_winograd(nn.Sequential(*left, layer)) == [layer]
    assert type(layer) is WinogradConv2d
    assert [type(layer) for layer in left] == types


def test_outputs_gradients_and_names_of_weights_stay():
    model, x = model_and_images()
    other = copy.deepcopy(model)
    assert len(use_winograd(other)) == 2
    assert [*other.state_dict()] == [*model.state_dict()]
    assert_close(other(x), model(x), TOLERANCE)
    for one in (model, other):
        one(x).square().sum().backward()
    for (name, got), expected in zip(other.named_parameters(), model.parameters()):
        assert got.grad is not None, name
        assert_close(got.grad, expected.grad, TOLERANCE)


def test_second_derivatives_stay():
    model, x = model_and_images()
    other = copy.deepcopy(model)
    use_winograd(other)
    found = []
    for one in (model, other):
        weight = one[2].weight
        (gradient,) = torch.autograd.grad(one(x).square().mean(), weight, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), weight)[0])
    assert_close(found[1], found[0], 1e-4)


def test_a_prepared_layer_keeps_its_kernel_until_new_weights_are_loaded():
    model, x = model_and_images()
    other = copy.deepcopy(model)
    layers = use_winograd(other)
    for layer in layers:
        layer.prepare_inference()
    with torch.inference_mode():
        assert_close(other(x), model(x), TOLERANCE)
        model[0].weight.mul_(2)
        other.load_state_dict(model.state_dict())
        assert layers[0].kernel is None
        assert_close(other(x), model(x), TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_by_pytorch(dtype):
    model, x = model_and_images()
    other = copy.deepcopy(model)
    for layer in use_winograd(other):
        layer.prepare_inference()
    with torch.inference_mode():
        assert torch.equal(other.to(dtype)(x.to(dtype)), model.to(dtype)(x.to(dtype)))
        model.float(), other.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert other(x).dtype == torch.bfloat16


def test_an_export_records_a_convolution():
    model, x = model_and_images()
    use_winograd(model)
    program = torch.export.export(model.eval(), (x,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("conv2d" in name for name in names) == 2
    assert not any("bmm" in name for name in names)


def test_a_batch_without_images_has_gradients():
    model, _ = model_and_images()
    use_winograd(model)
    model(torch.empty(0, 128, 14, 14)).sum().backward()
    assert not model[0].weight.grad.any()
