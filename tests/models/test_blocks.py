"""The parts of XCiT agree with their definitions, and the blocks agree with timm's blocks."""

import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.marks import MATRIX
from tests.helpers.models import assert_close, random_images, randomise
from xcit_dense import XCiT
from xcit_dense.models.blocks import (
    LPI,
    MLP,
    ConvPatchEmbed,
    PositionalEncodingFourier,
    XCABlock,
    map_to_tokens,
    tokens_to_map,
)
from xcit_dense.ops.norms import make_norm_layer

BN = make_norm_layer("BN")


# Against timm -------------------------------------------------------------------------------------------------------


def run_tokens(model, images):
    """Tokens before the first block and after each block, of our XCiT or timm's XCiT."""
    seen = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))]
    hooks += [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in model.blocks]
    model.forward_features(images) if hasattr(model, "forward_features") else model(images)
    for hook in hooks:
        hook.remove()
    return [map_to_tokens(x) if x.ndim == 4 else x for x in seen]


@pytest.fixture(
    scope="module",
    params=["nano_12_p16", "nano_12_p8", pytest.param("tiny_24_p8", marks=MATRIX)],
)
def pair(request):
    """timm's XCiT with random weights, and our XCiT with the same weights."""
    theirs = randomise(timm.create_model(f"xcit_{request.param}_224"))
    ours = XCiT(request.param)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("training", [False, True])
def test_tokens_equal_timms_block_for_block(pair, training):
    batch = random_images(2, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = (run_tokens(model.train(training), batch) for model in pair)
    assert len(ours) == len(theirs) == len(pair[0].blocks) + 1
    for got, expected in zip(ours, theirs):
        assert_close(got, expected)


def test_gradients_equal_timms(pair):
    # For a single image, PyTorch's batch norm on CPU gives timm's stem a wrong gradient.
    batch = random_images(2, 3, 64, 80)
    gradients = []
    for model in pair:
        model.eval().zero_grad()
        run_tokens(model, batch)[-1].square().mean().backward()
        gradients.append({name.replace("pos_embed.", "pos_embeder."): p.grad for name, p in model.named_parameters()})
    ours, theirs = gradients
    shared = [name for name in ours if not name.startswith("fpn")]
    assert len(shared) > 20 * len(pair[0].blocks)
    for name in shared:
        assert_close(ours[name], theirs[name], 1e-3)


# Tokens and maps ----------------------------------------------------------------------------------------------------


def test_tokens_are_rows_of_the_map_and_go_both_ways_without_a_copy():
    tokens = torch.arange(2 * 6 * 5.0).view(2, 6, 5)
    x = tokens_to_map(tokens, 2, 3)
    assert x.shape == (2, 5, 2, 3)
    torch.testing.assert_close(x[1, :, 1, 2], tokens[1, 5])
    assert x.is_contiguous(memory_format=torch.channels_last)
    back = map_to_tokens(x)
    assert back.data_ptr() == tokens.data_ptr()
    torch.testing.assert_close(back, tokens)
    torch.testing.assert_close(map_to_tokens(x.contiguous()), tokens)


# Stem ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(patch_size=st.sampled_from([8, 16]), height=st.integers(1, 70), width=st.integers(1, 70))
def test_the_stem_rounds_sizes_up(patch_size, height, width):
    stem = ConvPatchEmbed(3, 16, patch_size, BN).eval()
    with torch.no_grad():
        x = stem(torch.zeros(1, 3, height, width))
    assert x.shape == (1, 16, math.ceil(height / patch_size), math.ceil(width / patch_size))


@pytest.mark.parametrize(("patch_size", "widths"), [(8, [4, 8, 16]), (16, [2, 4, 8, 16])])
def test_the_stem_doubles_its_channels_up_to_the_width(patch_size, widths):
    stem = ConvPatchEmbed(5, 16, patch_size, BN)
    convs = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == widths
    assert convs[0].in_channels == 5
    assert all(conv.bias is None for conv in convs)


# Positional encoding ------------------------------------------------------------------------------------------------


def waves_in_loops(height: int, width: int, hidden: int = 32) -> np.ndarray:
    """The waves before their projection, (2 hidden, height, width), in float64: y first, sines at even places."""
    waves = np.zeros((2 * hidden, height, width))
    for row in range(height):
        for column in range(width):
            for axis, (position, n) in enumerate([(row + 1, height), (column + 1, width)]):
                for k in range(hidden):
                    angle = position / (n + 1e-6) * 2 * math.pi / 10_000 ** (2 * (k // 2) / hidden)
                    waves[axis * hidden + k, row, column] = math.cos(angle) if k % 2 else math.sin(angle)
    return waves


@pytest.fixture
def bare_encoding():
    """A positional encoding whose projection is the identity."""
    encoding = PositionalEncodingFourier(64).requires_grad_(False)
    encoding.token_projection.weight.copy_(torch.eye(64)[:, :, None, None])
    encoding.token_projection.bias.zero_()
    return encoding


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (9, 4), (40, 3)])
def test_positions_are_encoded_by_the_formula(height, width):
    encoding = randomise(PositionalEncodingFourier(24))
    weight, bias = (value.double().detach().numpy() for value in encoding.token_projection.parameters())
    expected = np.einsum("ck,khw->chw", weight[:, :, 0, 0], waves_in_loops(height, width)) + bias[:, None, None]
    torch.testing.assert_close(encoding(height, width)[0].double(), torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_rows_of_the_encoding_are_those_of_the_complete_encoding():
    encoding = randomise(PositionalEncodingFourier(16, hidden_dim=4))
    complete = encoding(9, 5)
    assert_close(encoding.encode_rows(9, 5, slice(2, 6)), complete[:, :, 2:6])


def test_positions_in_double_precision_are_encoded_in_double_precision(bare_encoding):
    encoded = bare_encoding.double()(5, 3)[0]
    torch.testing.assert_close(encoded, torch.from_numpy(waves_in_loops(5, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("autocast", [True, False])
def test_waves_are_computed_in_single_precision_where_the_model_runs_in_half(bare_encoding, autocast):
    # In bfloat16, some of these positions (above 256) and their angles would be equal.
    height, width = 1, 700
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        encoded = (bare_encoding if autocast else bare_encoding.bfloat16())(height, width)
    assert encoded.dtype == torch.bfloat16
    expected = torch.from_numpy(waves_in_loops(height, width))
    torch.testing.assert_close(encoded[0].double(), expected, rtol=2**-8, atol=1e-5)


# Local patch interaction --------------------------------------------------------------------------------------------


def test_lpi_sees_five_by_five_neighbours_of_its_own_channel():
    size, channel = 9, 2
    lpi = randomise(LPI(4, BN)).eval()
    x = random_images(1, 4, size, size).requires_grad_()
    lpi(x)[0, channel, size // 2, size // 2].backward()
    expected = torch.zeros_like(x, dtype=torch.bool)
    expected[0, channel, 2:7, 2:7] = True
    torch.testing.assert_close(x.grad != 0, expected)


def test_lpi_keeps_rows_and_columns_apart():
    lpi, transposed = randomise(LPI(4, BN)).eval(), randomise(LPI(4, BN)).eval()
    for conv in (transposed.conv1, transposed.conv2):
        conv.weight.data = conv.weight.data.mT.contiguous()
    x = random_images(1, 4, 2, 3)
    torch.testing.assert_close(lpi(x), transposed(x.mT).mT)


# MLP ----------------------------------------------------------------------------------------------------------------


def test_an_mlp_equals_the_mlp_of_timm_at_each_position():
    mlp, x = randomise(MLP(6, 15)), random_images(2, 6, 3, 4)
    theirs = timm.layers.Mlp(6, 15)
    theirs.load_state_dict(mlp.state_dict())
    torch.testing.assert_close(map_to_tokens(mlp(x)), theirs(map_to_tokens(x)))


# Block --------------------------------------------------------------------------------------------------------------


def block(drop=0.0, attn_drop=0.0, drop_path=0.0):
    """Makes a block of 12 channels with random weights."""
    return randomise(XCABlock(12, 3, 4.0, True, drop, attn_drop, drop_path, 1.0, BN))


@pytest.fixture
def x():
    """Two maps of 12 channels."""
    return random_images(2, 12, 4, 5)


def test_a_block_adds_three_scaled_branches_in_the_published_order(x):
    b = block().eval()
    expected = x + tokens_to_map(b.gamma1 * b.attn(b.norm1(map_to_tokens(x))), 4, 5)
    expected = expected + b.gamma3[:, None, None] * b.local_mp(b.norm3(expected))
    expected = expected + b.gamma2[:, None, None] * b.mlp(b.norm2(expected))
    torch.testing.assert_close(b(x), expected)


def test_a_block_without_gains_is_the_identity(x):
    b = block().train()
    for gain in (b.gamma1, b.gamma2, b.gamma3):
        nn.init.zeros_(gain)
    torch.testing.assert_close(b(x), x)


def test_a_block_does_not_change_its_input(x):
    before = x.clone()
    with torch.no_grad():
        block().eval()(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_drop_path_skips_branches_of_samples_only_in_training():
    certain, x = block(drop_path=1.0), random_images(4, 12, 4, 5)
    torch.testing.assert_close(certain.eval()(x), block().eval()(x))
    torch.testing.assert_close(certain.train()(x), x)
    torch.manual_seed(0)
    half = block(drop_path=0.5).train()
    skipped = torch.stack([(half(x) == x).flatten(1).all(1) for _ in range(40)]).double().mean()
    assert 0.05 < skipped < 0.25  # each of three branches with probability 1/2


@pytest.mark.parametrize("name", ["drop", "attn_drop"])
def test_dropout_of_a_block_acts_only_in_training(x, name):
    b, plain = block(**{name: 0.5}), block()
    torch.testing.assert_close(b.eval()(x), plain.eval()(x))
    torch.manual_seed(0)
    assert not torch.allclose(b.train()(x), plain.train()(x))


def test_layer_norms_have_the_published_epsilon():
    assert {m.eps for m in block().modules() if isinstance(m, nn.LayerNorm)} == {1e-6}
