"""The neck VT-FPN has the values of its equations, computed in loops, and the FLOPs of the paper."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.models import assert_close, raises_user_error, randomise
from xcit_dense.models.vt_fpn import VTFPN

R50 = [256, 512, 1024, 2048]
COCO, LIP = (800, 1216), (473, 473)  # sizes of images in the paper
STRIDES = (4, 8, 16, 32)
SMALL = {"out_channels": 12, "tokens": 3, "token_channels": 16, "groups": 4}
HALVES = (torch.bfloat16, torch.float16)


def neck(widths=(6, 10), **changes):
    """Makes a small neck in evaluation mode with random weights."""
    return randomise(VTFPN([*widths], **{**SMALL, **changes})).eval()


def maps(*sizes, widths=(6, 10), batch=2):
    """Makes random maps of the given sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, width, *size, generator=generator) for width, size in zip(widths, sizes)]


# Values


def grouped(weight, vector, bias=None):
    """Applies a linear map in groups to one vector. ``weight`` is (C', C / groups)."""
    width = weight.shape[1]
    groups = len(vector) // width
    out = []
    for row in range(len(weight)):
        group = row // (len(weight) // groups)
        out.append(sum(weight[row, i] * vector[group * width + i] for i in range(width)))
    return np.array(out) + (0 if bias is None else bias)


def softmax(scores):
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


def neck_in_loops(model, levels):
    """The equations of VT-FPN, one image, one position and one token at a time, in float64."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    weights = {name: value.reshape(len(value), -1) if value.ndim > 1 else value for name, value in weights.items()}
    outputs = []
    for image in zip(*(level.double().numpy() for level in levels)):
        every, tokens = [], []
        for i, level in enumerate(image):
            W, norm = weights[f"laterals.{i}.0.weight"], f"laterals.{i}.1."
            mean, variance = weights[f"{norm}running_mean"], weights[f"{norm}running_var"]
            X = []
            for position in level.reshape(len(level), -1).T:
                standard = (W @ position - mean) / np.sqrt(variance + 1e-5)
                X.append(weights[f"{norm}weight"] * standard + weights[f"{norm}bias"])
            every.append(X)
            for row in weights[f"tokenizers.{i}.score.weight"]:
                shares = softmax([row @ x for x in X])
                average = sum(share * x for share, x in zip(shares, X))
                tokens.append(
                    weights[f"tokenizers.{i}.expand.weight"] @ average + weights[f"tokenizers.{i}.expand.bias"]
                )
        K, Q = ([grouped(weights[f"transformer.{k}.weight"], token) for token in tokens] for k in ("key", "query"))
        attended = []
        for token, query in zip(tokens, Q):
            shares = softmax([query @ key / math.sqrt(len(token)) for key in K])
            attended.append(token + sum(share * other for share, other in zip(shares, tokens)))
        mapped = []
        for token in attended:
            hidden = grouped(weights["transformer.fc1.weight"], token, weights["transformer.fc1.bias"])
            hidden = np.maximum(hidden, 0)
            mapped.append(token + grouped(weights["transformer.fc2.weight"], hidden, weights["transformer.fc2.bias"]))
        count = len(tokens) // len(image)
        for i, X in enumerate(every):
            projector = f"projectors.{i}."
            own = mapped[i * count : (i + 1) * count]
            K = [weights[f"{projector}key.weight"] @ token for token in own]
            V = [weights[f"{projector}value.weight"] @ token + weights[f"{projector}value.bias"] for token in own]
            Y = []
            for x in X:
                query = grouped(weights[f"{projector}query.weight"], x, weights[f"{projector}query.bias"])
                shares = softmax([query @ key / math.sqrt(len(x)) for key in K])
                Y.append(x + sum(share * value for share, value in zip(shares, V)))
            outputs.append(np.array(Y).T.reshape(-1, *image[i].shape[1:]))
    rows = len(levels)
    return [np.stack(outputs[i::rows]) for i in range(rows)]


def test_the_neck_has_the_values_of_its_equations():
    model, levels = neck().double(), [level.double() for level in maps((3, 4), (2, 2))]
    with torch.no_grad():
        got = model(levels)
    for level, expected in zip(got, neck_in_loops(model, levels), strict=True):
        torch.testing.assert_close(level, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_a_further_level_takes_every_second_position():
    levels = maps((6, 7), (3, 4))
    with torch.no_grad():
        *four, fifth, sixth = neck(num_outs=4)(levels)
        for level, expected in zip(four, neck()(levels), strict=True):
            torch.testing.assert_close(level, expected)
    assert torch.equal(fifth, four[-1][:, :, ::2, ::2])
    assert torch.equal(sixth, fifth[:, :, ::2, ::2])


@pytest.mark.parametrize("sizes", [((1, 1), (1, 1)), ((5, 1), (3, 2)), ((64, 48), (7, 9))])
def test_levels_keep_their_sizes(sizes):
    with torch.no_grad():
        levels = neck()(maps(*sizes))
    assert [level.shape for level in levels] == [(2, 12, *size) for size in sizes]


def test_the_values_do_not_depend_on_the_memory_format_or_the_rest_of_the_batch():
    model, levels = neck(), maps((8, 6), (4, 3))
    with torch.no_grad():
        expected = model(levels)
        levels[0] = levels[0].contiguous(memory_format=torch.channels_last)
        for other in (model(levels), [torch.cat(parts) for parts in zip(*(model(one) for one in split(levels)))]):
            for level, value in zip(other, expected, strict=True):
                assert_close(level, value, 1e-5)


def split(levels):
    """Splits levels into the levels of each image."""
    return zip(*(level.split(1) for level in levels))


def test_a_level_reaches_the_other_level_through_the_tokens():
    model, levels = neck(), maps((8, 6), (4, 3))
    with torch.no_grad():
        before = model(levels)
        levels[1] = levels[1] + 1
        after = model(levels)
    assert not torch.allclose(before[0], after[0])
    change = (after[0] - before[0]).abs().amax(dim=(1, 2, 3))
    assert (change > 1e-3).all()


# Training


def test_gradients_reach_every_parameter_of_a_new_neck():
    torch.manual_seed(0)
    model = VTFPN([6, 10], **SMALL)
    sum((level * torch.randn_like(level)).sum() for level in model(maps((8, 6), (4, 3)))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-7, name


def test_a_new_neck_is_close_to_its_lateral_convolutions():
    torch.manual_seed(0)
    model, levels = VTFPN([64, 64]), maps((16, 16), (8, 8), widths=(64, 64))
    with torch.no_grad():
        for level, lateral, value in zip(levels, model.laterals, model(levels)):
            assert 0 < (value - lateral(level)).std() < 0.3 * lateral(level).std()


@pytest.mark.parametrize("dtype", HALVES)
def test_sixty_thousand_positions_in_mixed_precision(dtype):
    model, levels = neck(out_channels=32, token_channels=32), maps((240, 250), (120, 125), batch=1)
    with torch.no_grad():
        exact = model.double()([level.double() for level in levels])
    model.float()
    with torch.autocast("cpu", dtype):
        outputs = model(levels)
    for level, expected in zip(outputs, exact, strict=True):
        assert_close(level.double(), expected, 16 * torch.finfo(dtype).eps)
    sum(level.float().square().mean() for level in outputs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_neck_in_half_precision_has_outputs_in_half_precision(dtype):
    model, levels = neck(), maps((40, 50), (20, 25))
    with torch.no_grad():
        got = copy.deepcopy(model).to(dtype)([level.to(dtype) for level in levels])
        for level, expected in zip(got, model(levels), strict=True):
            assert level.dtype == dtype
            assert_close(level.float(), expected, 0.15)


def test_weights_of_positions_below_the_range_of_fp16_are_not_lost():
    # Each of the 60,000 positions has the weight 1 / 60,000, and fp16 has multiples of 6e-8.
    model = neck(widths=[4], out_channels=16, groups=4, norm_cfg=None)
    model.tokenizers[0].score.weight.data.zero_()
    x = 1 + torch.rand(1, 4, 240, 250, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        average = model.laterals[0](x).mean(dim=(2, 3))
        expected = model.tokenizers[0].expand(average)
        with torch.autocast("cpu", torch.float16):
            X = model.laterals[0](x).flatten(2).mT
            tokens = model.tokenizers[0](X)
    assert tokens.dtype == torch.float32
    assert_close(tokens, expected[:, None].expand_as(tokens), 1e-3)


# Cost


def multiply_adds(model, widths, size):
    """Billions of multiply-adds of a neck for an image of a size."""
    levels = [
        torch.empty(1, width, *(math.ceil(side / stride) for side in size), device="meta")
        for width, stride in zip(widths, STRIDES)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.to("meta")(levels)
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(("size", "billions"), [(COCO, 8.5), (LIP, 2.0)])
def test_the_neck_has_the_flops_of_the_paper(size, billions):
    assert multiply_adds(VTFPN(R50), R50, size) == pytest.approx(billions, abs=0.05)


def test_the_query_of_the_projector_has_sixteen_groups_because_of_the_flops():
    model = VTFPN(R50)
    for projector in model.projectors:
        projector.query = torch.nn.Conv2d(256, 256, kernel_size=1)
    assert multiply_adds(model, R50, COCO) == pytest.approx(13.5, abs=0.1)


# Errors


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 256}, ["in_channels=256", "write in_channels=[384] * 4"]),
        ({"in_channels": []}, ["in_channels=[]"]),
        ({"in_channels": [8, 0]}, ["in_channels has 0", "write 1 or more"]),
        ({"tokens": 0}, ["tokens has 0", "write 1 or more"]),
        ({"out_channels": 10}, ["groups=4", "out_channels=10", "write a multiple of 4"]),
        ({"token_channels": 18}, ["groups=4", "token_channels=18"]),
        ({"num_outs": 1}, ["num_outs=1", "write num_outs=2 or more"]),
        ({"norm_cfg": "GN"}, ["GN", "SyncBN"]),
    ],
)
def test_arguments_without_a_meaning_are_refused(changes, words):
    with raises_user_error(*words):
        VTFPN(**{"in_channels": [8, 8], **SMALL, **changes})


def test_another_number_of_levels_is_refused():
    with raises_user_error("1 levels", "in_channels=[6, 10]"):
        neck()(maps((8, 6)))
