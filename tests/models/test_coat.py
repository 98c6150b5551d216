"""The backbone CoaT: golden features, options, errors and training."""

import copy
import pickle

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.helpers.marks import MATRIX
from tests.helpers.models import assert_close, raises_user_error, random_images, randomise, tiny_coat
from tests.helpers.reference import read_reference
from tests.helpers.seeds import SEEDS, fill_model, largest_error, largest_gradient_error, read_names, read_seed
from xcit_dense import CoaT, deploy
from xcit_dense.benchmark.meters import count_saved_bytes
from xcit_dense.models.coat_blocks import FactorizedAttention, RelativePositionEncoding
from xcit_dense.variants import COAT_VARIANTS

LITE = {"parallel_depth": 0, "embed_dims": (8, 16, 24, 32)}
QUICK = ("coat_tiny", "coat_lite_tiny")
VARIANTS = [pytest.param(name, marks=() if name in QUICK else MATRIX) for name in COAT_VARIANTS]


@pytest.fixture(params=["parallel", "lite"])
def tiny(request):
    """A function that makes a tiny CoaT, with parallel blocks or without."""
    return lambda **changes: tiny_coat(**{**(LITE if request.param == "lite" else {}), **changes})


def loss(levels):
    return sum(level.square().mean() for level in levels)


def backward(model, images):
    """Gradients by name of the loss on these images."""
    model.zero_grad()
    loss(model(images)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# Golden features ----------------------------------------------------------------------------------------------------


def original_name(name):
    """The names of CoaT are the first names of the original code."""
    return name


@pytest.mark.parametrize("name", sorted(path.stem for path in SEEDS.glob("coat_*.npz")))
def test_levels_equal_the_levels_of_the_original_implementation(name):
    features, images = read_seed(name)
    model = fill_model(CoaT(str(features["arch"])), original_name).eval()
    with torch.no_grad():
        assert largest_error(model(images), features) < 1e-4
        assert largest_error(model.double()(images.double()), features) < 1e-6


def test_gradients_equal_the_gradients_of_the_original_implementation():
    features, images = read_seed("coat_tiny_96x64_grad")
    model = fill_model(CoaT("coat_tiny"), original_name).eval()
    backward(model, images)
    assert {f"gradnorm/{name}" for name, _ in model.named_parameters()} <= {*features.files}
    assert largest_gradient_error(model, features, original_name) < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_and_levels_of_timm_are_the_same(name):
    size = (64, 96)
    theirs = randomise(timm.create_model(name, img_size=size)).double().eval()
    model = CoaT(name).double().eval()
    model.load_state_dict(theirs.state_dict())
    images = random_images(2, 3, *size).double()
    with torch.no_grad():
        expected = theirs.forward_intermediates(images, norm=False, intermediates_only=True)
        for level, other in zip(model(images), expected, strict=True):
            assert_close(level, other, 1e-9)


def test_the_variants_are_the_published_ones():
    published = read_reference("seeds/coat_variants")
    assert [*COAT_VARIANTS] == [*published]
    for name, expected in published.items():
        variant = COAT_VARIANTS[name]
        for field in ("embed_dims", "serial_depths", "mlp_ratios"):
            assert list(getattr(variant, field)) == expected[field]
        assert variant.parallel_depth == expected["parallel_depth"]
        with torch.device("meta"):
            model = CoaT(name)
        assert sum(parameter.numel() for parameter in model.parameters()) == expected["params_dense"]


# Shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 33), (64, 64), (70, 31), (100, 3)])
def test_any_image_size_gives_four_levels(tiny, size):
    model = tiny().eval()
    with torch.no_grad():
        levels = model(random_images(2, 3, *size))
    expected = [(2, c, *(max(1, n // s) for n in size)) for s, c in zip(model.out_strides, model.out_channels)]
    assert [tuple(level.shape) for level in levels] == expected
    assert all(level.isfinite().all() for level in levels)


def test_a_side_that_is_shorter_than_a_patch_is_padded_with_zeros():
    model = tiny_coat().eval()
    image = random_images(1, 3, 3, 33)
    padded = nn.functional.pad(image, (0, 0, 0, 1))
    for level, expected in zip(model(image), model(padded)):
        assert_close(level, expected)


def test_levels_have_channels_last_memory_for_any_memory_of_the_images(tiny):
    model = tiny().eval()
    images = random_images(2, 3, 64, 96)
    expected = model(images)
    turned = images.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    sliced = random_images(2, 3, 64, 192)
    sliced[..., ::2] = images
    for same in (images.contiguous(memory_format=torch.channels_last), turned, sliced[..., ::2]):
        for level, other in zip(model(same), expected):
            assert level.is_contiguous(memory_format=torch.channels_last)
            assert_close(level, other)


def test_an_image_does_not_depend_on_the_others_of_its_batch(tiny):
    model = tiny().eval()
    images = random_images(3, 3, 50, 70)
    alone = [torch.cat(levels) for levels in zip(*(model(image[None]) for image in images))]
    for level, expected in zip(model(images), alone):
        assert_close(level, expected)


def test_images_are_checked_as_by_the_other_backbones():
    with raises_user_error("(B, 3, H, W)", "in_channels=4"):
        tiny_coat()(torch.zeros(1, 4, 32, 32))
    with raises_user_error("normalise"):
        tiny_coat()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


# Names --------------------------------------------------------------------------------------------------------------


def test_each_tensor_has_one_name(tiny):
    model = tiny()
    state = model.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert [*state] == [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert state.keys() == dict(model.named_parameters()).keys()


def test_names_are_the_first_names_of_the_original():
    for name, keys in read_names("coat_keys").items():
        with torch.device("meta"):
            own = {key: list(value.shape) for key, value in CoaT(name).state_dict().items()}
        aliases = {alias for others in keys["aliases"].values() for alias in others}
        assert own == {key: shape for key, shape in keys["dense"].items() if key not in aliases}


def test_an_optimizer_takes_a_group_for_each_parameter(tiny):
    model = tiny()
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 1e-3} for _, p in model.named_parameters()])
    before = copy.deepcopy(model.state_dict())
    loss(model(random_images(1, 3, 64, 64))).backward()
    optimizer.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_parameter_has_a_gradient(tiny):
    gradients = backward(tiny(), random_images(2, 3, 96, 64))
    assert [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0] == []


def test_averaged_weights_average_each_tensor_once(tiny):
    model = tiny()
    average = torch.optim.swa_utils.AveragedModel(model, avg_fn=lambda old, new, _: (old + new) / 2)
    average.update_parameters(model)  # the first update copies
    changed = randomise(copy.deepcopy(model), seed=1)
    average.update_parameters(changed)
    for name, value in average.module.state_dict().items():
        assert_close(value, (model.state_dict()[name] + changed.state_dict()[name]) / 2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_equal_and_independent(tiny, duplicate):
    model = tiny().eval()
    images = random_images(1, 3, 64, 64)
    expected = model(images)
    other = duplicate(model)
    randomise(model, seed=1)
    for level, before, changed in zip(other(images), expected, model(images)):
        assert torch.equal(level, before)
        assert not torch.equal(level, changed)


def test_safetensors_saves_and_loads_the_weights(tiny, tmp_path):
    model, other = tiny(), tiny(drop_rate=0.5)
    save_file(model.state_dict(), tmp_path / "coat.safetensors")
    randomise(other, seed=1).load_state_dict(load_file(tmp_path / "coat.safetensors"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


# Options ------------------------------------------------------------------------------------------------------------


def test_checkpointing_changes_neither_levels_nor_gradients(tiny):
    plain, model = tiny(), tiny(with_cp=True)
    images = random_images(2, 3, 50, 70)
    for level, expected in zip(model(images), plain(images)):
        assert_close(level, expected)
    expected = backward(plain, images)
    for name, gradient in backward(model, images).items():
        assert_close(gradient, expected[name])


def test_checkpointing_saves_memory(tiny):
    images = random_images(1, 3, 128, 128)
    plain, model = tiny(), tiny(with_cp=True)
    assert count_saved_bytes(model, images) < 0.7 * count_saved_bytes(plain, images)


def test_each_block_skips_its_branches_at_the_rate_of_drop_path(tiny):
    images = random_images(1, 3, 64, 64)
    model = tiny(drop_path_rate=1.0)
    plain = copy.deepcopy(model).eval()
    for name, parameter in plain.named_parameters():  # branches that add zeros
        if (".proj." in name and "factoratt" in name) or ".fc2." in name:
            parameter.data.zero_()
    for level, expected in zip(model(images), plain(images)):
        assert_close(level, expected)
    assert not torch.equal(model.eval()(images)[3], plain(images)[3])


@pytest.mark.parametrize("option", ["drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_acts_in_training_only(tiny, option):
    model = tiny(**{option: 0.5})
    images = random_images(1, 3, 64, 64)
    assert not torch.equal(model(images)[3], model(images)[3])
    model.eval()
    assert torch.equal(model(images)[3], model(images)[3])
    assert_close(model(images)[3], tiny().eval()(images)[3])


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (-1, set()),
        (0, {"patch_embed1", "cls_token1"}),
        (1, {"patch_embed1", "cls_token1", "cpe1", "crpe1", "serial_blocks1.0"}),
        (
            2,
            {"patch_embed1", "cls_token1", "cpe1", "crpe1", "serial_blocks1.0"}
            | {"patch_embed2", "cls_token2", "cpe2", "crpe2", "serial_blocks2.0"},
        ),
    ],
)
def test_frozen_stages_freeze_blocks_with_all_that_they_depend_on(stages, expected):
    model = tiny_coat(frozen_stages=stages)
    frozen = dict(model.named_parameters()).keys() - trained_names(model)
    assert {name for name in frozen if name.startswith(tuple(expected))} == frozen
    assert all(any(name.startswith(part) for name in frozen) for part in expected)


def test_all_blocks_can_be_frozen_and_trained_again():
    model = tiny_coat(frozen_stages=7)
    assert trained_names(model) == set()
    assert not any(block.training for block in model.list_blocks())
    model.frozen_stages = -1
    assert trained_names(model) == dict(model.named_parameters()).keys()
    with raises_user_error("frozen_stages=8", "up to 7"):
        model.frozen_stages = 8


def test_frozen_blocks_give_the_same_level_after_a_step():
    model = tiny_coat(frozen_stages=1)
    images = random_images(1, 3, 64, 64)
    before = model.eval()(images)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss(model.train()(images)).backward()
    optimizer.step()
    after = model.eval()(images)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_the_depth_of_a_parameter_grows_from_the_input_to_the_output():
    model = tiny_coat()
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert layers["patch_embed1.proj.weight"] == layers["cls_token1"] == 0
    assert layers["cpe1.proj.weight"] == layers["serial_blocks1.0.norm1.weight"] == 1
    assert layers["patch_embed2.norm.bias"] == layers["crpe2.conv_list.0.bias"] == layers["cls_token2"] == 2
    assert layers["serial_blocks2.1.mlp.fc1.weight"] == 3
    assert layers["serial_blocks4.0.norm2.bias"] == 5
    assert layers["parallel_blocks.1.mlp2.fc1.weight"] == 7 == len(model.list_blocks())
    assert {*layers.values()} == {*range(8)}


def test_blocks_are_listed_from_the_input_to_the_output():
    model = tiny_coat()
    order = []
    for number, block in enumerate(model.list_blocks()):
        block.register_forward_hook(lambda *_, number=number: order.append(number))
    model(random_images(1, 3, 32, 32))
    assert order == [*range(7)]


def test_layers_with_hooks_are_called(tiny):
    model = tiny().eval()
    images = random_images(1, 3, 64, 64)
    expected = model(images)
    called = []
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.LayerNorm) or hasattr(m, "fc1")]
    layers += [m for m in model.modules() if isinstance(m, FactorizedAttention)]
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: called.append(module))
    for level, other in zip(model(images), expected):
        assert_close(level, other)
    assert {*called} == {*layers}


def test_the_levels_of_a_deployed_model_are_the_same(tiny):
    model = tiny().eval()
    images = random_images(1, 3, 64, 64)
    expected = model(images)
    for level, other in zip(deploy(model)(images), expected):
        assert_close(level, other)
    with raises_user_error("deployed CoaT"):
        model.train()


# Precision ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_close_to_full_precision(tiny, dtype, autocast):
    model = tiny().eval()
    images = random_images(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(images)
        if autocast:
            with torch.autocast("cpu", dtype):
                levels = model(images)
        else:
            levels = model.to(dtype)(images)
    for level, other in zip(levels, expected):
        assert_close(level.float(), other, 60 * torch.finfo(dtype).eps)


def test_the_softmax_over_many_positions_is_precise_in_half_precision():
    # Equal keys give each of the 550,201 tokens the weight 1.8e-6. fp16 would round all of them down by 1.6 %.
    rows, columns, channels = 700, 786, 8
    attention, encoding = FactorizedAttention(channels), RelativePositionEncoding(channels)
    with torch.no_grad():
        for parameter in [*attention.parameters(), *encoding.parameters()]:
            parameter.zero_()
        attention.proj.weight.copy_(torch.eye(channels))
        attention.qkv.bias[:channels] = attention.qkv.bias[2 * channels :] = 1  # Q and V
        tokens = torch.zeros(1, 1 + rows * columns, channels, dtype=torch.float16)
        y = attention.half()(tokens, (rows, columns), encoding.half())
    assert (y - 1).abs().max() <= 2 * torch.finfo(torch.float16).eps


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "coat_lite_mni"}, ["coat_lite_mni", "coat_lite_mini"]),
        ({"variant": "coat_tiny", "parallel_depth": 4}, ["parallel_depth=6, not 4"]),
        ({}, ["embed_dims, serial_depths", "CoaT('coat_lite_mini')"]),
        ({"embed_dims": (8, 16, 16, 12)}, ["multiples of 8"]),
        ({"embed_dims": (8, 16, 16)}, ["four"]),
        ({"serial_depths": (1, 1, 1, 0)}, ["serial_depths=(1, 1, 1, 0)"]),
        ({"parallel_depth": -1}, ["parallel_depth=-1"]),
        ({"mlp_ratios": (4, 4, 4, 0.01)}, ["mlp_ratios"]),
        ({"embed_dims": (8, 16, 24, 24)}, ["equal embed_dims"]),
        ({"mlp_ratios": (4, 4, 2, 4)}, ["equal mlp_ratios"]),
        ({"drop_path_rate": 1.5}, ["drop_path_rate=1.5"]),
        ({"in_channels": 0}, ["in_channels=0"]),
        ({"frozen_stages": 8}, ["frozen_stages=8"]),
    ],
)
def test_wrong_options_are_refused_with_what_to_write(options, words):
    complete = options and "variant" not in options
    shape = {"embed_dims": (8, 16, 16, 16), "serial_depths": (1, 2, 1, 1), "parallel_depth": 2} if complete else {}
    with raises_user_error(*words):
        CoaT(**{**shape, **options})


def test_a_variant_needs_no_prefix():
    with torch.device("meta"):
        assert CoaT("lite_mini").name == CoaT("coat_lite_mini").name == "CoaT coat_lite_mini"
