"""Changed layers: hooks, adapters, parametrizations, wrappers and quantization act inside XCiT as in any model."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from tests.helpers.models import assert_close, raises_user_error, random_images, tiny_xcit
from xcit_dense import deploy

SIZES = [(24, 32), (96, 128)]  # few tokens and many: the literal and the covariance form of XCA
LINEAR_LAYERS = "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"
CONVOLUTIONS = "patch_embed.proj.0.0", "pos_embeder.token_projection", "blocks.1.local_mp.conv1", "fpn1.0"

every_size = pytest.mark.parametrize("size", SIZES, ids=str)
both_modes = pytest.mark.parametrize("training", [True, False])


def model_of(training=False, **options):
    """Makes a small model of patch size 16, whose levels contain a batch norm and a GELU."""
    return tiny_xcit(patch_size=16, **options).train(training)


def linear_names(model):
    return [f"blocks.{index}.{name}" for index in range(len(model.blocks)) for name in LINEAR_LAYERS]


def replace(model, name, layer):
    """Puts a layer in the place of the layer of this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def learn(model, images):
    """Runs forward and backward; returns the levels and all gradients by name."""
    model.zero_grad()
    levels = model(images)
    sum(level.square().mean() for level in levels).backward()
    return levels, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_levels(got, expected, tolerance=1e-4):
    for level, other in zip(got, expected, strict=True):
        assert_close(level, other.detach(), tolerance)


def assert_same_gradients(got, expected):
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        tolerance = 1e-4 * expected[name].abs().max().item() + 1e-6
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=tolerance)


# Hooks --------------------------------------------------------------------------------------------------------------


def called_modules(model):
    """Names of all modules of a model that are called; ModuleLists are not."""
    return {name for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)}


@every_size
@both_modes
def test_forward_hooks_of_every_inner_module_run(size, training):
    model, images = model_of(training), random_images(2, 3, *(2 * side for side in size))
    expected, _ = learn(copy.deepcopy(model), images)
    ran = set()
    for name in called_modules(model):
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: ran.add(name))
    levels, _ = learn(model, images)
    assert ran == called_modules(model)
    assert_same_levels(levels, expected)


@every_size
@both_modes
def test_forward_hooks_run_without_gradients(size, training):
    model, images = model_of(training), random_images(2, 3, *size)
    ran = set()
    for name in called_modules(model):
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: ran.add(name), with_kwargs=True
        )
    with torch.no_grad():
        expected = copy.deepcopy(model)(images)
        assert_same_levels(model(images), expected)
    assert ran == called_modules(model)


@every_size
@both_modes
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_of_every_inner_module_run(size, training, register):
    model, images = model_of(training), random_images(2, 3, *size)
    expected, gradients = learn(copy.deepcopy(model), images)
    # The input of the positional encoding does not have a gradient, and neither has the input of its projection.
    names = {name for name in called_modules(model) if not name.startswith("pos_embeder")}
    ran = set()
    for name in names:
        getattr(model.get_submodule(name), register)(lambda *call, name=name: ran.add(name))
    levels, found = learn(model, images.requires_grad_())
    assert ran == names
    assert_same_levels(levels, expected)
    assert_same_gradients(found, gradients)


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_full_backward_hook"])
def test_hooks_of_all_modules_of_the_process_run(register):
    model, ran = model_of(training=True), []
    handle = getattr(nn.modules.module, register)(lambda module, *call: ran.append(module))
    try:
        learn(model, random_images(2, 3, *SIZES[1]).requires_grad_())
    finally:
        handle.remove()
    assert {id(model.get_submodule(name)) for name in linear_names(model)} <= {id(module) for module in ran}


@every_size
def test_a_forward_hook_can_change_the_output_of_a_layer(size):
    images = random_images(1, 3, *size)
    for name in (*linear_names(model_of())[:4], *CONVOLUTIONS, "blocks.2.norm1", "blocks.2.local_mp.bn", "fpn1.2"):
        model = model_of()
        before = model(images)
        model.get_submodule(name).register_forward_hook(lambda module, args, output: 2 * output)
        assert not all(map(torch.allclose, model(images), before)), name


def test_a_hook_that_is_removed_leaves_the_fast_path():
    model, images = model_of(), random_images(1, 3, *SIZES[1])
    expected = model(images)
    model.blocks[0].mlp.fc1.register_forward_hook(lambda *call: None).remove()
    assert all(torch.equal(got, level) for got, level in zip(model(images), expected))


@pytest.mark.parametrize(
    "name", ["patch_embed.proj.0.0", "patch_embed.proj.0.1", "fpn1.0", "pos_embeder.token_projection"]
)
def test_hooks_of_a_deployed_model_run_at_every_call(name):
    model, images, ran = model_of(), random_images(1, 3, *SIZES[0]), []
    model.get_submodule(name).register_forward_hook(lambda *call: ran.append(name))
    with torch.no_grad():
        expected = model(images)
        ran.clear()
        deploy(model)
        for _ in range(2):
            assert_same_levels(model(images), expected)
    assert len(ran) == 2


# Layers of other types ----------------------------------------------------------------------------------------------


class Doubled(nn.Linear):
    """A linear layer with a ``forward`` of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


class Wrapper(nn.Module):
    """A module around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **options):
        return 2 * self.layer(*args, **options)


def doubled(model, name):
    """Doubles the weight and the bias of a layer."""
    with torch.no_grad():
        for parameter in model.get_submodule(name).parameters():
            parameter *= 2


@every_size
@both_modes
@pytest.mark.parametrize("kind", ["subclass", "wrapper", "forward of the instance"])
def test_the_forward_method_of_a_layer_decides_its_output(size, training, kind):
    model, images = model_of(training), random_images(2, 3, *size)
    expected = copy.deepcopy(model)
    for name in linear_names(model):
        layer = model.get_submodule(name)
        doubled(expected, name)
        if kind == "wrapper":
            replace(model, name, Wrapper(layer))
        elif kind == "subclass":
            other = Doubled(layer.in_features, layer.out_features)
            other.load_state_dict(layer.state_dict())
            replace(model, name, other)
        else:
            layer.forward = lambda x, layer=layer: 2 * nn.Linear.forward(layer, x)
    assert_same_levels(learn(model, images)[0], learn(expected, images)[0])


@every_size
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_wrapper_around_a_convolution_is_called(size, name):
    model, images = model_of(training=True), random_images(2, 3, *size)
    expected = copy.deepcopy(model)
    doubled(expected, name)
    replace(model, name, Wrapper(model.get_submodule(name)))
    levels, gradients = learn(model, images)
    assert_same_levels(levels, learn(expected, images)[0])
    assert len(gradients) == len(list(model.parameters()))


@every_size
@pytest.mark.parametrize("branch", ["attn", "local_mp", "mlp"])
def test_a_wrapper_around_a_branch_of_a_block_is_called(size, branch):
    model, images = model_of(), random_images(1, 3, *size)
    expected = copy.deepcopy(model)
    gain = {"attn": "gamma1", "local_mp": "gamma3", "mlp": "gamma2"}[branch]
    with torch.no_grad():
        getattr(expected.blocks[1], gain).mul_(2)
    replace(model, f"blocks.1.{branch}", Wrapper(model.blocks[1].get_submodule(branch)))
    assert_same_levels(model(images), expected(images))


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}, {"padding": 2, "dilation": 2}], ids=str
)
def test_a_convolution_with_other_options_computes_what_it_would_alone(options):
    model, images = model_of(), random_images(1, 3, *SIZES[1])
    lpi = model.blocks[0].local_mp
    lpi.conv1 = nn.Conv2d(16, 16, 3, groups=16, **options)
    x = random_images(2, 16, 8, 9)
    torch.testing.assert_close(lpi(x), nn.Sequential(lpi.conv1, lpi.act, lpi.bn, lpi.conv2)(x))
    assert all(level.isfinite().all() for level in model(images))


def test_the_covariance_form_is_refused_for_a_layer_without_plain_weights():
    model = model_of()
    attention = model.blocks[0].attn
    attention.qkv, attention.form = Wrapper(attention.qkv), "covariance"
    with raises_user_error("covariance form", "Wrapper", "write form='literal'"):
        model(random_images(1, 3, *SIZES[1]))


# Reparametrized weights ---------------------------------------------------------------------------------------------


def with_hook_weight_norm(layer):
    return weight_norm(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@every_size
@both_modes
@pytest.mark.parametrize("normalise", [with_hook_weight_norm, parametrizations.weight_norm])
def test_weight_norm_keeps_the_output_and_trains(size, training, normalise):
    model, images = model_of(training), random_images(2, 3, *size)
    expected, _ = learn(copy.deepcopy(model), images)
    for name in (*linear_names(model), *CONVOLUTIONS):
        normalise(model.get_submodule(name))
    levels, gradients = learn(model, images)
    assert_same_levels(levels, expected)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    before = levels[0].detach()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.allclose(model(images)[0], before)


@every_size
def test_spectral_norm_limits_the_weight_that_is_used(size):
    model, images = model_of(), random_images(1, 3, *size)
    expected = copy.deepcopy(model)
    for name in linear_names(model):
        layer = parametrizations.spectral_norm(model.get_submodule(name))
        layer.eval()
        expected.get_submodule(name).weight.data = layer.weight.detach().clone()
    assert_same_levels(model(images), expected(images))


@every_size
@both_modes
def test_pruned_weights_are_not_used(size, training):
    model, images = model_of(training), random_images(2, 3, *size)
    expected = copy.deepcopy(model)
    for name in (*linear_names(model), *CONVOLUTIONS):
        prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.5)
        expected.get_submodule(name).weight.data *= model.get_submodule(name).weight_mask
    assert_same_levels(learn(model, images)[0], learn(expected, images)[0])


# Quantization -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@every_size
def test_dynamic_quantization_is_near_the_model(size):
    model, images = model_of(), random_images(1, 3, *size)
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantized.modules())
    with torch.no_grad():
        levels, expected = quantized(images), model(images)
    for got, level in zip(levels, expected):
        assert 0 < (got - level).norm() < 0.1 * level.norm()


# Copies and functional calls ----------------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_changed_model_compute_the_same(size, clone):
    model, images = model_of(), random_images(1, 3, *size)
    replace(model, "blocks.0.mlp.fc1", Wrapper(model.blocks[0].mlp.fc1))
    replace(model, "blocks.1.attn.qkv", Wrapper(model.blocks[1].attn.qkv))
    for got, expected in zip(clone(model)(images), model(images)):
        assert torch.equal(got, expected)


@every_size
@both_modes
def test_functional_call_has_the_values_and_gradients_of_the_model(size, training):
    # PyTorch's batch norm cannot record statistics in torch.func.grad.
    model, images = model_of(training, norm_eval=True), random_images(2, 3, *size)
    levels, gradients = learn(copy.deepcopy(model), images)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}

    def loss(parameters):
        levels = torch.func.functional_call(model, (parameters, buffers), (images,))
        return sum(level.square().mean() for level in levels), levels

    found, called = torch.func.grad(loss, has_aux=True)(parameters)
    assert_same_levels(called, levels)
    assert_same_gradients(found, gradients)
