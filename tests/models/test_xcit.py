"""The backbone XCiT: golden features, options, errors and training."""

import copy
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.marks import MATRIX
from tests.helpers.models import assert_close, matching_names, raises_user_error, random_images, randomise, tiny_xcit
from tests.helpers.reference import GOLDEN, read_golden
from xcit_dense import VARIANTS, XCiT, deploy
from xcit_dense.benchmark.meters import count_saved_bytes
from xcit_dense.models.blocks import map_to_tokens
from xcit_dense.models.pyramid import make_levels
from xcit_dense.models.state_dict import STEM
from xcit_dense.ops.norms import make_norm_layer


def loss(levels):
    return sum(level.square().mean() for level in levels)


def backward(model, images):
    """Gradients by name of the loss on these images."""
    model.zero_grad()
    loss(model(images)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


# Golden features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_levels_equal_the_levels_of_the_original_implementation(name):
    file, model, batch = read_golden(name)
    with torch.no_grad():
        levels = model(batch)
    assert len(levels) == 4
    for number, level in enumerate(levels):
        assert_close(level, file[f"level{number}"])


def test_gradients_equal_the_gradients_of_the_original_implementation():
    file, model, batch = read_golden("nano_12_p16_96x64_grad")
    expected = {key.removeprefix("gradnorm/"): file[key] for key in file.files if key.startswith("gradnorm/")}
    got = {name: gradient.norm().item() for name, gradient in backward(model, batch).items()}
    assert got.keys() == expected.keys()
    assert got == {name: pytest.approx(norm.item(), rel=1e-3) for name, norm in expected.items()}


# Shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 33), (64, 64), (70, 31)])
def test_any_image_size_gives_four_levels(patch_size, size):
    model = tiny_xcit(patch_size=patch_size).eval()
    with torch.no_grad():
        levels = model(random_images(2, 3, *size))
    tokens = [-(-n // patch_size) for n in size]
    expected = [[max(1, n * patch_size // stride) for n in tokens] for stride in model.out_strides]
    assert [list(level.shape) for level in levels] == [[2, 16, *level] for level in expected]
    assert all(level.isfinite().all() for level in levels)


@pytest.mark.parametrize("patch_size", [8, 16])
def test_levels_have_the_strides_and_channels_that_the_backbone_states(patch_size):
    model = tiny_xcit(patch_size=patch_size).eval()
    assert model.out_strides == (4, 8, 16, 32)
    assert model.out_channels == (16, 16, 16, 16)
    levels = model(random_images(1, 3, 64, 96))
    assert [(64 // level.shape[2], 96 // level.shape[3]) for level in levels] == [(s, s) for s in model.out_strides]
    assert tuple(level.shape[1] for level in levels) == model.out_channels


@pytest.mark.parametrize("in_channels", [1, 4])
def test_images_may_have_other_channels(in_channels):
    levels = tiny_xcit(in_channels=in_channels).eval()(random_images(1, in_channels, 32, 32))
    assert all(level.isfinite().all() for level in levels)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_the_wrong_channels_are_refused(channels):
    with raises_user_error("(B, 3, H, W)", f"got (2, {channels}, 32, 40)", f"in_channels={channels}"):
        tiny_xcit()(random_images(2, channels, 32, 40))


@pytest.mark.parametrize("shape", [(3, 32, 40), (32, 40), (1, 2, 3, 32, 40)])
def test_images_that_are_not_a_batch_are_refused(shape):
    with raises_user_error("(B, 3, H, W)", f"got {shape}", "image[None]"):
        tiny_xcit()(random_images(*shape))


def test_levels_are_the_tokens_of_the_blocks_that_out_indices_name():
    indices = (0, 2, 3, 5)
    model = tiny_xcit(depth=7, out_indices=indices).eval()
    maps = []
    for block in model.blocks:
        block.register_forward_hook(lambda *call: maps.append(call[2]))
    levels = model(random_images(1, 3, 32, 40))
    assert len(maps) == 6, "no level needs the last block"
    for level, name, index in zip(levels, make_levels(16, 8, make_norm_layer("BN")), indices):
        torch.testing.assert_close(level, model.get_submodule(name)(maps[index]))


@pytest.mark.parametrize("depth", [4, 5, 6, 7, 12, 24])
def test_default_levels_come_from_four_blocks_up_to_the_last_at_any_depth(depth):
    with torch.device("meta"):
        indices = XCiT(patch_size=8, embed_dim=16, depth=depth, num_heads=2).out_indices
    assert indices[-1] == depth - 1
    assert list(indices) == sorted({index for index in indices if index >= 0})
    assert len(indices) == 4


# Batches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nano_12_p16", "nano_12_p8"])
def test_a_single_image_has_the_levels_that_it_has_in_a_batch(name):
    model, batch = randomise(XCiT(name)).eval(), random_images(3, 3, 48, 70)
    with torch.no_grad():
        together, single = model(batch), model(batch[1:2])
    for got, expected in zip(single, together):
        assert_close(got, expected[1:2], 1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_a_single_image_equal_the_gradients_of_the_image_twice(training):
    # PyTorch's batch norm on CPU gives wrong gradients for a single image whose gradient has certain strides.
    model, image = tiny_xcit(patch_size=16).double().train(training), random_images(1, 3, 48, 70).double()
    twice = backward(model, image.repeat(2, 1, 1, 1))
    once = backward(model, image)
    assert any(gradient.abs().max() > 1e-3 for gradient in twice.values())
    for name, gradient in once.items():
        torch.testing.assert_close(gradient, twice[name], rtol=1e-6, atol=1e-9)


def test_memory_format_of_the_images_does_not_matter():
    model, batch = tiny_xcit().eval(), random_images(2, 3, 32, 40)
    for got, expected in zip(model(batch.contiguous(memory_format=torch.channels_last)), model(batch)):
        assert_close(got, expected, 1e-5)


# Precision ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def exact():
    """A model, images, and its features in float64."""
    model, batch = randomise(XCiT("nano_12_p16")).eval(), random_images(1, 3, 64, 80)
    with torch.no_grad():
        levels = copy.deepcopy(model).double()(batch.double())
    assert all(level.dtype == torch.float64 for level in levels)
    return model, batch, levels


def test_single_precision_is_near_double_precision(exact):
    model, batch, expected = exact
    for level, other in zip(model(batch), expected):
        assert_close(level.double(), other, 1e-4)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_near_double_precision(exact, autocast):
    model, batch, expected = exact
    if not autocast:
        model, batch = model.bfloat16(), batch.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        levels = model(batch)
    for level, other in zip(levels, expected):
        assert_close(level.double(), other, 0.3)


def test_training_under_autocast_gives_finite_gradients():
    model = tiny_xcit().train()
    with torch.autocast("cpu", torch.bfloat16):
        levels = model(random_images(2, 3, 32, 40))
        total = loss(level.float() for level in levels)
    total.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


# State and copies ---------------------------------------------------------------------------------------------------


def test_a_state_dict_comes_back_as_it_was():
    model, other = randomise(XCiT("nano_12_p16"), seed=1), randomise(XCiT("nano_12_p16"), seed=2)
    result = other.load_state_dict(model.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_work_and_still_translate_weights(clone):
    model, batch = tiny_xcit().eval(), random_images(1, 3, 32, 40)
    twin = clone(model)
    for got, expected in zip(twin(batch), model(batch)):
        assert torch.equal(got, expected)
    timms = {
        name.replace("pos_embeder.", "pos_embed."): torch.full_like(value, 2)
        for name, value in model.state_dict().items()
    }
    before = copy.deepcopy(model.state_dict())
    twin.load_state_dict(timms)
    assert all((value == 2).all() for value in twin.state_dict().values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# From a checkpoint --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_from_pretrained_builds_the_variant_of_the_file(tmp_path, suffix):
    model, batch = randomise(XCiT("nano_12_p16")), random_images(1, 3, 32, 48)
    path = tmp_path / f"weights.{suffix}"
    save_file(model.state_dict(), path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    twin = XCiT.from_pretrained(path)
    assert type(twin) is XCiT
    assert twin.training
    for got, expected in zip(twin.eval()(batch), model.eval()(batch), strict=True):
        assert torch.equal(got, expected)


def test_from_pretrained_reads_the_file_once(tmp_path, monkeypatch):
    torch.save(tiny_xcit().state_dict(), tmp_path / "weights.pth")
    calls, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(args) or load(*args, **options))
    XCiT.from_pretrained(tmp_path / "weights.pth", out_indices=(0, 1, 2, 3))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"embed_dim": 48, "depth": 8, "num_heads": 3, "patch_size": 16, "mlp_ratio": 2.5, "in_channels": 1},
        {"embed_dim": 32, "depth": 5, "num_heads": 8, "patch_size": 8, "qkv_bias": False},
    ],
)
def test_from_pretrained_builds_other_shapes_from_the_weights(tmp_path, options):
    model = randomise(XCiT(**options)).eval()
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "weights.pth")
    twin = XCiT.from_pretrained(str(tmp_path / "weights.pth")).eval()
    assert twin.out_indices == model.out_indices
    batch = random_images(1, model.in_channels, 32, 48)
    for got, expected in zip(twin(batch), model(batch), strict=True):
        assert torch.equal(got, expected)


def test_from_pretrained_takes_further_options(tmp_path):
    torch.save(tiny_xcit().state_dict(), tmp_path / "weights.pth")
    model = XCiT.from_pretrained(
        tmp_path / "weights.pth", frozen_stages=2, drop_path_rate=0.25, norm_eval=True, norm_cfg="BN"
    )
    assert (model.frozen_stages, model.norm_eval, model.blocks[3].drop_path.drop_prob) == (2, True, 0.25)
    assert not model.blocks[1].attn.qkv.weight.requires_grad
    assert type(model.blocks[3].local_mp.bn) is nn.BatchNorm2d


def test_from_pretrained_refuses_options_that_the_weights_do_not_fit(tmp_path):
    torch.save(randomise(XCiT("nano_12_p16")).state_dict(), tmp_path / "weights.pth")
    with raises_user_error("nano_12_p16", "patch_size=16, not 8"):
        XCiT.from_pretrained(tmp_path / "weights.pth", patch_size=8)


def test_from_pretrained_adapts_the_stem_to_other_channels_and_no_other_weight(tmp_path, caplog):
    weights = tiny_xcit().state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    with caplog.at_level("INFO", logger="xcit_dense"):
        model = XCiT.from_pretrained(tmp_path / "weights.pth", in_channels=4)
    assert model.in_channels == 4
    assert set(weights) - matching_names(model, weights) == {STEM}
    assert "for 3 input channels repeated and scaled for 4" in caplog.text


def test_from_pretrained_with_the_channels_of_the_file_changes_no_bit(tmp_path, caplog):
    weights = tiny_xcit().state_dict()
    torch.save(weights, tmp_path / "weights.pth")
    with caplog.at_level("INFO", logger="xcit_dense"):
        model = XCiT.from_pretrained(tmp_path / "weights.pth", in_channels=3)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not caplog.text


def test_from_pretrained_finds_published_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints/xcit_nano_12_p16_224.pth"
    path.parent.mkdir(parents=True)
    weights = {k: v + 1 for k, v in XCiT("nano_12_p16").state_dict().items() if not k.startswith("fpn")}
    torch.save({"model": {**weights, "head.bias": torch.ones(1000)}}, path)
    for name in ("nano_12_p16_224", "xcit://nano_12_p16_224"):
        state = XCiT.from_pretrained(name).state_dict()
        assert all(torch.equal(state[key], value) for key, value in weights.items())
    with raises_user_error("nano_12_p16_22", "nano_12_p16_224"):
        XCiT.from_pretrained("nano_12_p16_22")


@pytest.mark.parametrize("content", [{}, {"layer1.weight": torch.ones(2)}], ids=["empty", "ResNet"])
def test_from_pretrained_refuses_weights_of_other_models(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with raises_user_error(tmp_path / "weights.pth", "no XCiT weights", "give a checkpoint of XCiT"):
        XCiT.from_pretrained(tmp_path / "weights.pth")
    with raises_user_error("No checkpoint at", "gone.pth"):
        XCiT.from_pretrained(tmp_path / "gone.pth")


# Building -----------------------------------------------------------------------------------------------------------


def test_a_name_and_its_hyper_parameters_build_the_same_model():
    with torch.device("meta"):
        by_name = XCiT("nano_12_p16")
        by_numbers = XCiT(patch_size=16, embed_dim=128, depth=12, num_heads=4)
        both = XCiT("nano_12_p16", embed_dim=128)
    assert str(by_name) == str(by_numbers) == str(both)
    assert by_name.out_indices == by_numbers.out_indices == both.out_indices


def test_an_unknown_variant_is_answered_with_all_names_and_the_nearest():
    with raises_user_error("Did you mean 'nano_12_p16'?", *VARIANTS):
        XCiT("nano_12_p15")


def test_a_hyper_parameter_against_the_named_variant_is_refused():
    with raises_user_error("'nano_12_p16' has embed_dim=128, not 192", "leave embed_dim out"):
        XCiT("nano_12_p16", embed_dim=192)


def test_missing_hyper_parameters_are_named():
    with raises_user_error("XCiT needs depth, patch_size", "XCiT('small_12_p16')"):
        XCiT(embed_dim=128, num_heads=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"embed_dim": 0}, ["embed_dim=0 must be an integer of at least 1"]),
        ({"depth": 3}, ["depth=3 must be an integer of at least 4"]),
        ({"num_heads": 3}, ["num_heads=3 does not divide embed_dim=16"]),
        ({"patch_size": 12}, ["patch_size=12", "write patch_size=8 or 16"]),
        ({"in_channels": 0}, ["in_channels=0", "write 3 for RGB"]),
        ({"norm_cfg": {"type": "GN"}}, ["'GN'", "BN, BN2d, SyncBN"]),
        ({"frozen_stages": 5}, ["frozen_stages=5", "up to 4"]),
        ({"frozen_stages": -2}, ["frozen_stages=-2", "-1 (train all)"]),
    ],
)
def test_numbers_out_of_range_are_refused(options, words):
    with raises_user_error(*words):
        tiny_xcit(**options)


@pytest.mark.parametrize("indices", [(), (0, 1, 2), (0, 1, 2, 3, 4), (3, 2, 1, 0), (0, 1, 2, 12), (-1, 1, 2, 3)])
def test_wrong_out_indices_are_answered_with_right_ones(indices):
    with raises_user_error(str(indices), "a block out of 0..11 for each", "out_indices=(3, 5, 7, 11)"):
        XCiT("nano_12_p16", out_indices=indices)


def test_norm_cfg_reaches_every_batch_norm():
    model = tiny_xcit(patch_size=16, norm_cfg={"type": "BN", "eps": 0.125, "requires_grad": False})
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) == 4 + len(model.blocks) + 1
    assert {type(norm) for norm in norms} == {nn.BatchNorm2d}
    assert {norm.eps for norm in norms} == {0.125}
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())


def test_drop_path_is_constant_over_depth():
    with torch.device("meta"):
        model = XCiT("tiny_24_p16", drop_path_rate=0.2)
    assert {block.drop_path.drop_prob for block in model.blocks} == {0.2}


def test_drop_rates_reach_every_dropout():
    model = tiny_xcit(drop_rate=0.25, attn_drop_rate=0.5)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert {rate for name, rate in rates.items() if "attn_drop" in name} == {0.5}
    assert {rate for name, rate in rates.items() if "attn_drop" not in name} == {0.25}
    assert "pos_drop" in rates


def test_mlp_ratio_bias_and_eta_reach_every_block():
    model = XCiT(patch_size=8, embed_dim=16, depth=4, num_heads=2, mlp_ratio=2, qkv_bias=False, eta=0.5)
    for block in model.blocks:
        assert block.mlp.fc1.out_features == 32
        assert block.attn.qkv.bias is None
        assert all((gain == 0.5).all() for gain in (block.gamma1, block.gamma2, block.gamma3))


def test_linear_layers_start_small_without_outliers_and_without_bias():
    torch.manual_seed(1)  # with which the original's truncated normal draws a -2
    linears = [module for module in XCiT("nano_12_p16").modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 4 * 12
    for module in linears:
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert module.weight.abs().max() < 0.2
        assert not module.bias.any()


# Freezing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frozen_stages", "blocks"), [(-1, 0), (0, 0), (2, 2), (4, 4)])
def test_frozen_stages_do_not_change_and_other_stages_train(frozen_stages, blocks):
    model = tiny_xcit(frozen_stages=frozen_stages).train()
    frozen = list(model.blocks[:blocks])
    if frozen_stages >= 0:
        frozen += [model.patch_embed, model.pos_embeder]
    inside = {id(module) for part in frozen for module in part.modules()}
    assert all(module.training == (id(module) not in inside) for module in model.modules())

    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    gradients = backward(model, random_images(2, 3, 32, 40))
    optimizer.step()
    still = tuple(name for name, module in model.named_modules() if id(module) in inside)
    for name, value in model.state_dict().items():
        fixed = name.startswith(tuple(f"{prefix}." for prefix in still))
        assert torch.equal(value, before[name]) == fixed, name
        if name in gradients:
            assert (gradients[name] is None) == fixed, name


def modes(model):
    """Training mode of each module, and whether each parameter requires a gradient."""
    return (
        {name: module.training for name, module in model.named_modules()},
        {name: parameter.requires_grad for name, parameter in model.named_parameters()},
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("before", "after"), [(2, -1), (4, 1), (-1, 2), (0, -1)])
def test_frozen_stages_can_be_assigned(before, after, training):
    model = tiny_xcit(frozen_stages=before).train(training)
    model.frozen_stages = after
    assert model.frozen_stages == after
    assert modes(model) == modes(tiny_xcit(frozen_stages=after).train(training))


def test_unfreezing_trains_only_what_freezing_stopped():
    model = tiny_xcit(norm_cfg={"type": "BN", "requires_grad": False})
    model.blocks[0].gamma1.requires_grad_(False)
    before = modes(model)
    model.frozen_stages = 3
    copy.deepcopy(model).frozen_stages = -1  # a copy does not unfreeze the original
    assert not any(parameter.requires_grad for parameter in model.blocks[2].parameters())
    model.frozen_stages = -1
    assert modes(model) == before


def test_frozen_stages_out_of_range_cannot_be_assigned():
    model = tiny_xcit(frozen_stages=1)
    with raises_user_error("frozen_stages=5", "up to 4"):
        model.frozen_stages = 5
    assert model.frozen_stages == 1


def test_norm_eval_acts_before_the_first_call_of_train():
    assert modes(tiny_xcit(norm_eval=True)) == modes(tiny_xcit(norm_eval=True).train())


def test_norm_eval_fixes_statistics_and_trains_the_parameters():
    model = tiny_xcit(norm_eval=True).train()
    before = copy.deepcopy(model.state_dict())
    gradients = backward(model, random_images(2, 3, 32, 40))
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name
    assert all(gradient is not None for gradient in gradients.values())
    assert model.blocks[0].training
    assert not model.blocks[0].local_mp.bn.training


def test_statistics_are_recorded_without_norm_eval():
    model = tiny_xcit().train()
    before = copy.deepcopy(model.state_dict())
    model(random_images(2, 3, 32, 40))
    assert all(not torch.equal(value, before[name]) for name, value in model.named_buffers())


# Activation checkpointing -------------------------------------------------------------------------------------------


def plain_and_checkpointed(**options):
    """Makes the same model without and with activation checkpointing, in training mode."""
    return [tiny_xcit(with_cp=with_cp, **options).train() for with_cp in (False, True)]


@pytest.mark.parametrize(
    "options",
    [{}, {"drop_path_rate": 0.4, "drop_rate": 0.1}, {"norm_eval": True}, {"frozen_stages": 2}, {"norm_cfg": "BN"}],
    ids=str,
)
def test_checkpointing_keeps_outputs_gradients_and_statistics(options):
    models, batch = plain_and_checkpointed(**options), random_images(2, 3, 32, 40)
    results = []
    for model in models:
        torch.manual_seed(0)
        levels = []
        for _ in range(2):
            levels += model(batch)
        loss(levels).backward()
        gradients = [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]
        results.append([*levels, *gradients, *model.buffers()])
    plain, checkpointed = results
    assert len(plain) == len(checkpointed)
    for got, expected in zip(checkpointed, plain):
        torch.testing.assert_close(got, expected)


def test_checkpointing_leaves_batch_norms_recording():
    for model in plain_and_checkpointed():
        backward(model, random_images(2, 3, 32, 40))
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        assert all(norm.track_running_stats for norm in norms)
        assert {norm.num_batches_tracked.item() for norm in norms} == {1}


@pytest.mark.parametrize("eta", [1.0, 1e-2, 1e-5])
def test_what_blocks_add_survives_bfloat16_as_in_timm(eta):
    # If x had half precision, the sum of x and a small branch would equal x.
    ours = randomise(XCiT(patch_size=8, embed_dim=32, depth=4, num_heads=4, out_indices=(0, 1, 2, 3))).eval()
    theirs = timm.models.xcit.Xcit(patch_size=8, embed_dim=32, depth=4, num_heads=4, eta=1.0, num_classes=0).eval()
    for name, value in ours.named_parameters():
        if "gamma" in name:
            torch.nn.init.constant_(value, eta)
    names = {name.replace("pos_embeder", "pos_embed"): value for name, value in ours.state_dict().items()}
    unexpected = theirs.load_state_dict(names, strict=False).unexpected_keys
    assert all(name.startswith("fpn") for name in unexpected)
    image = random_images(1, 3, 96, 128)

    def added(model):
        seen = []
        hooks = [model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
        hooks += [model.blocks[-1].register_forward_hook(lambda *call: seen.append(call[2]))]
        with torch.no_grad():
            model(image)
        for hook in hooks:
            hook.remove()
        first, last = (map_to_tokens(x) if x.ndim == 4 else x for x in seen)
        return last.double() - first.double()

    exact = added(ours)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(added(model) - exact).norm() for model in (ours, theirs)]
    assert errors[0] <= 1.3 * errors[1]


@pytest.mark.parametrize("patch_size", [8, 16])
def test_a_block_keeps_eight_maps_for_the_backward_pass(patch_size):
    # The inputs of XCA, LPI and MLP, one map within the LPI, and four within the MLP; timm's keeps 26.
    a_block = []
    for size in (16, 32):  # tokens along a side
        batch = random_images(1, 3, size * patch_size, size * patch_size)
        models = [tiny_xcit(patch_size=patch_size, depth=n, out_indices=None, norm_cfg="BN").train() for n in (6, 7)]
        less, more = (count_saved_bytes(model, batch) for model in models)
        a_block.append(more - less)
    assert a_block[1] - a_block[0] == 8 * 4 * 16 * (32**2 - 16**2)  # of 16 channels, in single precision


def test_checkpointing_keeps_one_map_a_block_for_the_backward_pass():
    batch, growing = random_images(1, 3, 128, 128), 4 * 16 * 16**2
    models = [tiny_xcit(depth=depth, out_indices=None, with_cp=True).train() for depth in (6, 8)]
    assert count_saved_bytes(models[1], batch) - count_saved_bytes(models[0], batch) == 2 * growing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch_size", "others"),
    [
        (8, ()),
        # The graph for all sizes takes twice as long to compile as the graph for one size.
        pytest.param(8, ((320, 256), (288, 384), (256, 256)), marks=MATRIX),
        pytest.param(16, ((320, 256), (288, 384), (256, 256)), marks=MATRIX),
    ],
)
def test_the_backbone_compiles_in_one_graph_and_once_more_for_other_sizes(patch_size, others):
    model = tiny_xcit(patch_size=patch_size).train()
    same = copy.deepcopy(model)
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for size in ((256, 320), *others):
        results = []
        for way, owner in ((compiled, model), (same, same)):
            owner.zero_grad()
            levels = way(random_images(2, 3, *size))
            loss(levels).backward()
            results.append([*levels, *(p.grad for p in owner.parameters()), *owner.buffers()])
        for got, expected in zip(*results):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
    assert backend.frame_count <= 2


@pytest.mark.slow
def test_a_deployed_backbone_compiles_in_one_graph():
    model, batch = deploy(tiny_xcit().eval()), random_images(1, 3, 128, 96)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for got, expected in zip(compiled(batch), model(batch)):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_checkpointing_is_off_in_evaluation():
    plain, checkpointed = (model.eval()(random_images(1, 3, 32, 40)) for model in plain_and_checkpointed())
    for got, expected in zip(checkpointed, plain):
        assert torch.equal(got, expected)
