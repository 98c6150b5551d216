"""PyTorch's own tools work on backbones. What fails, fails on a plain network too."""

import copy
import io

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.feature_extraction import create_feature_extractor

from tests.helpers.models import assert_close, raises_user_error, random_images, randomise, tiny_coat, tiny_xcit
from xcit_dense import TokenPyramid, deploy

SIZES = [(24, 32), (96, 128)]  # few tokens and many: the literal and the covariance form of XCA

every_size = pytest.mark.parametrize("size", SIZES, ids=str)
every_backbone = pytest.mark.parametrize("build", [tiny_xcit, tiny_coat], ids=lambda build: build.__name__)


def loss_of(levels):
    return sum(level.square().mean() for level in levels)


# torch.func ---------------------------------------------------------------------------------------------------------


def mean_of_levels(model):
    """Makes a function with few outputs: the channels of each level, averaged over positions, (B, 4 C)."""
    return lambda images: torch.cat([level.mean(dim=(2, 3)) for level in model(images)], dim=1)


@every_size
@every_backbone
@pytest.mark.parametrize("gradients", [True, False])
def test_vmap_over_images_gives_the_levels_of_the_batch(build, size, gradients):
    model, images = build().eval(), random_images(3, 3, *size)
    with torch.set_grad_enabled(gradients):
        levels = torch.func.vmap(lambda image: model(image[None]))(images)
        for got, expected in zip(levels, model(images), strict=True):
            assert_close(got[:, 0].detach(), expected.detach())


@every_size
@every_backbone
@pytest.mark.parametrize("gradients", [True, False])
def test_vmap_over_stacked_weights_gives_the_levels_of_each_model(build, size, gradients):
    models, images = [randomise(build(), seed).eval() for seed in range(3)], random_images(2, 3, *size)
    skeleton = copy.deepcopy(models[0]).to("meta")
    with torch.set_grad_enabled(gradients):
        stacked = torch.func.stack_module_state(models)
        levels = torch.func.vmap(lambda *state: torch.func.functional_call(skeleton, state, (images,)))(*stacked)
        for index, model in enumerate(models):
            for got, expected in zip(levels, model(images), strict=True):
                assert_close(got[index].detach(), expected.detach())


@every_size
@every_backbone
def test_vmap_of_grad_gives_the_gradients_of_each_image(build, size):
    model, images = build(norm_eval=True).double().train(), random_images(3, 3, *size).double()
    weights = dict(model.named_parameters())

    def loss(weights, image):
        return loss_of(torch.func.functional_call(model, weights, (image[None],)))

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)
    for index, image in enumerate(images):
        model.zero_grad()
        loss_of(model(image[None])).backward()
        for name, value in weights.items():
            torch.testing.assert_close(gradients[name][index], value.grad)


def test_vmap_over_deployed_models_leaves_none_of_its_tensors_in_a_model():
    models, images = [deploy(randomise(tiny_xcit(), seed).eval()) for seed in range(2)], random_images(2, 3, 64, 64)
    with torch.no_grad():
        stacked = torch.func.stack_module_state(models)
        levels = torch.func.vmap(lambda *state: torch.func.functional_call(models[0], state, (images,)))(*stacked)
        for index, model in enumerate(models):
            for got, expected in zip(levels, model(images), strict=True):
                assert_close(got[index], expected)


def test_vmap_refuses_batch_norms_in_training_mode_in_backbones_and_in_plain_layers():
    images = random_images(2, 3, 32, 32)
    for model in (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), tiny_xcit()):
        with pytest.raises(RuntimeError, match="Batch norm got a batched tensor"):
            torch.func.vmap(lambda image, model=model: model(image[None]))(images)
        torch.func.replace_all_batch_norm_modules_(model)
        torch.func.vmap(lambda image, model=model: model(image[None]))(images)


@every_size
@every_backbone
@pytest.mark.parametrize("gradients", [True, False])
def test_jvp_is_the_difference_of_the_levels_along_a_direction(build, size, gradients):
    model = build().double().eval()
    images, direction = random_images(1, 3, *size).double(), random_images(3, 1, *size).double().transpose(0, 1)
    with torch.set_grad_enabled(gradients):
        _, slopes = torch.func.jvp(lambda x: model(x), (images,), (direction,))
        with forward_ad.dual_level():
            duals = [forward_ad.unpack_dual(level) for level in model(forward_ad.make_dual(images, direction))]
    with torch.no_grad():
        step = 1e-5
        plus, minus = model(images + step * direction), model(images - step * direction)
    for slope, dual, above, below in zip(slopes, duals, plus, minus, strict=True):
        assert_close(slope.detach(), (above - below) / (2 * step), 1e-3)
        assert_close(dual.tangent.detach(), slope.detach())


@every_size
@every_backbone
def test_vjp_is_the_backward_pass(build, size):
    model, images = build().eval(), random_images(2, 3, *size).requires_grad_()
    levels, pull_back = torch.func.vjp(model, images.detach())
    weights = tuple(random_images(*level.shape) for level in levels)
    (expected,) = torch.autograd.grad(model(images), images, weights)
    assert_close(pull_back(weights)[0].detach(), expected, 1e-3)


@every_backbone
def test_jacobians_in_every_way_of_pytorch_are_equal(build):
    model, images = build().double().eval(), random_images(1, 3, 8, 16).double()
    function = mean_of_levels(model)
    expected = torch.autograd.functional.jacobian(function, images)
    assert_close(torch.autograd.functional.jacobian(function, images, vectorize=True), expected)
    assert_close(torch.func.jacrev(function)(images).detach(), expected)
    assert_close(torch.func.jacfwd(function)(images).detach(), expected)


@every_backbone
def test_jvp_of_grad_is_the_difference_of_gradients_along_a_direction(build):
    model = build().double().eval()
    images, direction = random_images(1, 3, 24, 32).double(), random_images(1, 24, 32, 3).double().permute(0, 3, 1, 2)
    slope = torch.func.grad(lambda x: loss_of(model(x)))
    step = 1e-5
    expected = (slope(images + step * direction) - slope(images - step * direction)) / (2 * step)
    assert_close(torch.func.jvp(slope, (images,), (direction,))[1].detach(), expected.detach(), 1e-3)


def test_fused_attention_of_pytorch_has_fewer_derivatives_than_its_plain_attention():
    trunk = TokenPyramid("beit_base_patch16_224", model_options={"embed_dim": 32, "depth": 4, "num_heads": 2}).eval()
    images, queries, bias = random_images(1, 3, 32, 48), random_images(1, 2, 6, 8), nn.Parameter(torch.zeros(6, 6))
    for call, x in ((trunk, images), (lambda x: F.scaled_dot_product_attention(x, x, x, bias), queries)):
        with pytest.raises(NotImplementedError, match="scaled_dot_product"):
            torch.func.jvp(call, (x,), (x,))
        with pytest.raises(RuntimeError, match="scaled_dot_product"):
            torch.func.vjp(call, x)
        with sdpa_kernel(SDPBackend.MATH):
            torch.func.jvp(call, (x,), (x,))
            torch.func.vjp(call, x)
    with sdpa_kernel(SDPBackend.MATH):
        levels = torch.func.vmap(lambda image: trunk(image[None]))(images)
    for got, expected in zip(levels, trunk(images), strict=True):
        assert_close(got[:, 0].detach(), expected.detach())


# Traces -------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@every_size
@every_backbone
def test_a_trace_with_gradients_has_the_levels_and_the_gradients(build, size):
    model, images = build(norm_eval=True).train(), random_images(2, 3, *size)
    traced = torch.jit.trace(copy.deepcopy(model), images)
    for call in (model, traced):
        loss_of(call(images)).backward()
    expected = dict(model.named_parameters())
    for got, level in zip(traced(images), model(images), strict=True):
        assert_close(got.detach(), level.detach())
    for name, value in traced.named_parameters():
        gradient = expected[name].grad
        torch.testing.assert_close(value.grad, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item() + 1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_saved_trace_computes_the_same():
    model, images = tiny_xcit().eval(), random_images(1, 3, 64, 64)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, images), file)
    file.seek(0)
    for got, expected in zip(torch.jit.load(file)(images), model(images), strict=True):
        assert_close(got.detach(), expected.detach())


def test_torch_fx_names_what_to_do_in_place_of_recording_a_backbone():
    with raises_user_error("torch.fx cannot record", "leaf_modules", "register_forward_hook"):
        create_feature_extractor(tiny_xcit(), {"blocks.1": "block"})


class Network(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.out_channels[0], 5, 1)

    def forward(self, images):
        return self.head(self.backbone(images)[0])


@every_backbone
def test_torch_fx_records_a_network_around_a_backbone_that_is_named_as_a_leaf(build):
    network, images = Network(build()).eval(), random_images(1, 3, 64, 64)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, type(network.backbone)) or super().is_leaf_module(module, name)

    graph = Tracer().trace(network)
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["backbone", "head"]
    assert torch.equal(torch.fx.GraphModule(network, graph)(images), network(images))

    leaf = {"leaf_modules": [type(network.backbone)]}
    extractor = create_feature_extractor(network, {"backbone": "levels", "head": "logits"}, tracer_kwargs=leaf)
    found = extractor(images)
    assert torch.equal(found["logits"], network(images))
    assert len(found["levels"]) == 4


# Compilation --------------------------------------------------------------------------------------------------------


class PlainLayers(nn.Sequential):
    """A strided convolution, a linear layer on its positions, and a convolution, in PyTorch's usual memory."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(8, 8), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, images):
        x = self[0](images)
        tokens = self[1](x.flatten(2).transpose(1, 2))  # (B, N, C)
        return (self[2](tokens.transpose(1, 2).unflatten(2, x.shape[2:])),)


def small_for_inductor():
    return tiny_xcit(patch_size=16, norm_eval=True, out_strides=(16,), out_indices=(0,))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("build", [PlainLayers, small_for_inductor], ids=["plain layers", "XCiT"])
def test_inductor_cannot_make_sizes_dynamic_in_training_of_plain_layers_and_of_a_backbone(build):
    torch._dynamo.reset()
    compiled = torch.compile(build().train())
    loss_of(compiled(random_images(2, 3, 64, 96))).backward()
    with pytest.raises(Exception, match="cannot determine truth value of Relational"):
        loss_of(compiled(random_images(2, 3, 96, 128))).backward()


@pytest.mark.slow
@pytest.mark.long
def test_inductor_trains_at_two_sizes_if_sizes_are_not_dynamic():
    torch._dynamo.reset()
    model = small_for_inductor().train()
    compiled = torch.compile(model, dynamic=False)
    for size in [(64, 96), (96, 128)]:
        images, gradients = random_images(2, 3, *size), []
        for call in (compiled, model):
            model.zero_grad()
            loss_of(call(images)).backward()
            gradients.append({name: value.grad for name, value in model.named_parameters()})
        for name, gradient in gradients[1].items():
            tolerance = 1e-4 * gradient.abs().max().item() + 1e-6
            torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=tolerance)


# Quantization, pruning, averages ------------------------------------------------------------------------------------


@every_backbone
def test_pruning_over_all_linear_layers_is_made_permanent(build):
    model, images = build().eval(), random_images(1, 3, 64, 64)
    layers = [(module, "weight") for module in model.modules() if type(module) is nn.Linear]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.4)
    zeros = sum((module.weight == 0).sum().item() for module, _ in layers)
    assert abs(zeros / sum(module.weight.numel() for module, _ in layers) - 0.4) < 0.01
    masked = model(images)
    for module, name in layers:
        prune.remove(module, name)
    for got, expected in zip(model(images), masked, strict=True):
        assert_close(got.detach(), expected.detach())


@every_backbone
def test_timms_average_follows_the_weights_and_the_statistics(build):
    model = build(norm_eval=False).train()
    average = ModelEmaV3(model, decay=0.9)
    before = {name: value.clone() for name, value in average.module.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model(random_images(2, 3, 64, 64))).backward()
    optimizer.step()
    average.update(model)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            expected = 0.9 * before[name] + 0.1 * value
            torch.testing.assert_close(average.module.state_dict()[name], expected)
    assert all(level.isfinite().all() for level in average.module.eval()(random_images(1, 3, 64, 64)))


@every_backbone
def test_pytorchs_average_follows_the_weights(build):
    model = build().train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    before = {name: value.clone() for name, value in average.module.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model(random_images(2, 3, 64, 64))).backward()
    optimizer.step()
    average.update_parameters(model)
    for name, value in model.named_parameters():
        torch.testing.assert_close(dict(average.module.named_parameters())[name], 0.9 * before[name] + 0.1 * value)
    assert all(level.isfinite().all() for level in average.eval()(random_images(1, 3, 64, 64)))
