"""Cross-covariance attention equals the definition of the paper, computed in loops. All forms give the same values."""

import copy
import math

import numpy as np
import pytest
import torch
from timm.models import xcit as timm_xcit
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.models import assert_close, raises_user_error, randomise
from xcit_dense import VARIANTS
from xcit_dense.models.xca import XCA, cheaper_form

FEW, MANY = (
    5,
    40,
)  # numbers of tokens: with few tokens the literal form is cheaper, with many tokens the covariance form
DIM, HEADS = 12, 3
FORMS = ("literal", "covariance")
SHAPES = sorted({(variant.embed_dim, variant.num_heads) for variant in VARIANTS.values()})  # published C and h
HALVES = (torch.bfloat16, torch.float16)

both_forms = pytest.mark.parametrize("form", FORMS)


def attend_in_loops(xca: XCA, x: np.ndarray) -> np.ndarray:
    """XCA(Q, K, V) = V A', A = softmax(tau Qn' Kn), one head and one image at a time, in float64."""
    weights = {name: value.detach().double().numpy() for name, value in xca.state_dict().items()}
    dim = x.shape[-1]
    width = dim // xca.num_heads
    out = np.zeros_like(x)
    for image in range(len(x)):
        QKV = x[image] @ weights["qkv.weight"].T + weights.get("qkv.bias", 0)
        mixed = np.zeros_like(x[image])
        for head in range(xca.num_heads):
            channels = slice(head * width, (head + 1) * width)
            Q, K, V = (QKV[:, part * dim : (part + 1) * dim][:, channels] for part in range(3))
            for i in range(width):
                logits = []
                for j in range(width):
                    lengths = max(math.sqrt(sum(Q[:, i] ** 2)), 1e-12) * max(math.sqrt(sum(K[:, j] ** 2)), 1e-12)
                    logits.append(weights["temperature"][head].item() * sum(Q[:, i] * K[:, j]) / lengths)
                exponentials = [math.exp(logit - max(logits)) for logit in logits]
                for j in range(width):
                    mixed[:, head * width + i] += exponentials[j] / sum(exponentials) * V[:, j]
        out[image] = mixed @ weights["proj.weight"].T + weights["proj.bias"]
    return out


def attention(**options):
    """Makes an XCA in float64 with random weights."""
    return randomise(XCA(DIM, HEADS, **options).double())


def tokens(n, dim=DIM):
    """Makes random tokens in float64."""
    return torch.from_numpy(np.random.default_rng(n).standard_normal((2, n, dim)))


@both_forms
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("n", [1, FEW, MANY])
def test_xca_is_the_papers_definition(n, qkv_bias, form):
    xca, x = attention(qkv_bias=qkv_bias), tokens(n)
    torch.testing.assert_close(xca(x, form), torch.from_numpy(attend_in_loops(xca, x.numpy())), rtol=1e-9, atol=1e-9)


@both_forms
@pytest.mark.parametrize("heads", [1, DIM])
def test_xca_is_the_papers_definition_with_one_head_and_with_a_head_a_channel(heads, form):
    xca, x = randomise(XCA(DIM, heads).double()), tokens(MANY)
    torch.testing.assert_close(xca(x, form), torch.from_numpy(attend_in_loops(xca, x.numpy())), rtol=1e-9, atol=1e-9)


@both_forms
@pytest.mark.parametrize("n", [48, 500])
def test_xca_in_single_precision_is_the_papers_definition(n, form):
    xca, x = randomise(XCA(48, 4, qkv_bias=True)), tokens(n, 48)
    assert_close(xca(x.float(), form), torch.from_numpy(attend_in_loops(xca, x.numpy())).float(), 1e-5)


@both_forms
@pytest.mark.parametrize("n", [FEW, MANY])
def test_channels_that_are_zero_on_all_tokens_give_finite_values(n, form):
    xca, x = attention(qkv_bias=False), torch.zeros_like(tokens(n)).requires_grad_()
    y = xca(x, form)
    torch.testing.assert_close(y, torch.from_numpy(attend_in_loops(xca, x.detach().numpy())))
    y.sum().backward()
    assert all(value.grad.isfinite().all() for value in (x, *xca.parameters()))


@both_forms
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("n", [3, 12])
def test_gradients_of_xca_are_the_slopes_of_its_values(n, qkv_bias, form):
    xca, x = randomise(XCA(4, 2, qkv_bias=qkv_bias).double()), tokens(n, 4).requires_grad_()
    names, values = zip(*xca.named_parameters())

    def run(x, *parameters):
        return torch.func.functional_call(xca, dict(zip(names, parameters)), (x, form))

    assert torch.autograd.gradcheck(run, (x, *values))
    assert torch.autograd.gradgradcheck(lambda x: run(x, *values), (x,))


@both_forms
def test_differentiable_gradients_are_the_same(form):
    xca, norm, gain = attention(qkv_bias=True), torch.nn.LayerNorm(DIM).double(), torch.linspace(0.5, 2, DIM).double()
    x, gain = tokens(MANY).requires_grad_(), gain.requires_grad_()
    value = xca(x * x.sin(), form, norm, gain).square().sum()
    wanted = [x, gain, *norm.parameters(), *xca.parameters()]
    once, again = (torch.autograd.grad(value, wanted, create_graph=more, retain_graph=True) for more in (False, True))
    torch.testing.assert_close(again, once, rtol=1e-9, atol=1e-9)


@both_forms
@pytest.mark.parametrize("gain", [None, 2.0])
def test_a_norm_and_a_gain_are_applied_before_and_after(form, gain):
    xca, norm, x = attention(qkv_bias=True), torch.nn.LayerNorm(DIM).double(), tokens(MANY)
    gains = None if gain is None else torch.full((DIM,), gain).double()
    torch.testing.assert_close(xca(x, form, norm, gains), xca(norm(x), form) * (gain or 1))


def learn(xca, x, form, autocast=None):
    """Runs one form forward and backward, the same dropout each time; returns values and all gradients by name."""
    xca.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(0)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = xca(x, form)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y))
    return {"y": y.detach(), "x": x.grad} | {name: value.grad.clone() for name, value in xca.named_parameters()}


@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("n", [1, 2, FEW, MANY, 500])
def test_both_forms_have_the_same_values_and_gradients(n, qkv_bias, drop):
    xca, x = attention(qkv_bias=qkv_bias, attn_drop=drop, proj_drop=drop), tokens(n)
    literal, covariance = (learn(xca, x, form) for form in FORMS)
    assert len(literal) == 6 + qkv_bias  # y, x, temperature, weights of both projections, bias of the second
    assert all(value.any() for name, value in literal.items() if n > 1 or name in ("y", "x", "proj.weight"))
    torch.testing.assert_close(covariance, literal, rtol=1e-10, atol=1e-10)


def test_a_query_and_a_key_of_zero_have_the_same_values_and_gradients_in_both_forms():
    xca, x = attention(qkv_bias=True), tokens(MANY)
    with torch.no_grad():
        for channel in (1, DIM + 2, 2 * DIM - 1):
            xca.qkv.weight[channel] = xca.qkv.bias[channel] = 0
    literal, covariance = (learn(xca, x, form) for form in FORMS)
    assert literal["qkv.weight"].abs().max() > 1e9  # the minimum length of 1e-12 causes these large gradients
    for name, expected in literal.items():
        torch.testing.assert_close(covariance[name], expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


@both_forms
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("autocast", [True, False])
def test_a_query_and_a_key_of_zero_are_finite_in_half_precision(form, dtype, autocast):
    xca, x = randomise(XCA(48, 4, qkv_bias=True)), tokens(200, 48).float()
    with torch.no_grad():
        for channel in (1, 50, 95):
            xca.qkv.weight[channel] = xca.qkv.bias[channel] = 0
        exact = xca(x, "literal")
    found = learn(xca, x, form, dtype) if autocast else learn(xca.to(dtype), x.to(dtype), form)
    assert all(value.isfinite().all() for value in found.values())
    assert (found["y"] - exact).norm() < 0.02 * exact.norm()


def test_squares_that_rounding_made_negative_still_give_cosines():
    xca, width = randomise(XCA(DIM, HEADS)), DIM // HEADS
    W = xca.qkv.weight.detach()
    W[: 2 * DIM] -= W[: 2 * DIM].mean(dim=1, keepdim=True)  # Q and K do not depend on the mean of all channels
    W[2 * DIM :] = 0
    W[2 * DIM :: width, 0] = 1  # V is the first channel of X in the first of a head, else zero: the output shows A
    xca.temperature.detach().fill_(1)
    torch.nn.init.eye_(xca.proj.weight)
    torch.nn.init.zeros_(xca.proj.bias)
    x = 1000 + 1e-4 * torch.randn(1, MANY, DIM, generator=torch.Generator().manual_seed(0))
    assert ((W @ (x[0].T @ x[0]) * W)[: 2 * DIM].sum(dim=1) < 0).any()
    learnt = learn(xca, x, "covariance")
    assert all(value.isfinite().all() for value in learnt.values())
    attention = learnt["y"] / 1000
    least, most = (1 / (1 + (width - 1) * math.exp(sign * 2)) for sign in (1, -1))
    assert (attention > least - 1e-4).all()
    assert (attention < most + 1e-4).all()


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(("dim", "heads"), SHAPES)
def test_both_forms_agree_in_single_precision_at_every_published_width(dim, heads, qkv_bias):
    xca = randomise(XCA(dim, heads, qkv_bias=qkv_bias))
    for n in (16, dim, 3 * dim):
        x = tokens(n, dim)[:1].float()
        with torch.no_grad():
            assert_close(xca(x, "covariance"), xca(x, "literal"))


@pytest.mark.parametrize(("dim", "heads"), SHAPES)
def test_one_token_to_many_give_what_the_literal_form_gives(dim, heads):
    # A single token makes lengths of one number each, which the covariance form squares first: not its field.
    xca = randomise(XCA(dim, heads, qkv_bias=True))
    for n in (1, 2, dim // 2, dim, 3 * dim // 2, 2 * dim):
        x = tokens(n, dim)[:1].float()
        with torch.no_grad():
            assert_close(xca(x), xca(x, "literal"))


@pytest.mark.slow
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("offset", [0, 5])
def test_both_forms_agree_in_single_precision_on_a_hundred_thousand_tokens(offset, qkv_bias):
    xca, x = randomise(XCA(128, 4, qkv_bias=qkv_bias)), tokens(100_000, 128)[:1].float() + offset
    with torch.no_grad():
        assert_close(xca(x, "covariance"), xca(x, "literal"))


@pytest.mark.parametrize(("dim", "heads"), SHAPES)
def test_an_offset_common_to_all_tokens_keeps_the_accuracy(dim, heads):
    xca = randomise(XCA(dim, heads, qkv_bias=True))
    x = tokens(3 * dim, dim)[:1] + 5
    with torch.no_grad():
        exact = copy.deepcopy(xca).double()(x, "literal")
        assert_close(xca(x.float(), "covariance"), exact)
        # Nor next to the part that differs between tokens, which the offset makes the smaller one.
        mean = exact.mean(dim=1, keepdim=True)
        assert_close(xca(x.float(), "covariance") - mean, exact - mean)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("dim", "heads", "n"), [(128, 4, 200), (192, 4, 900)])
@pytest.mark.parametrize("offset", [0, 5])
def test_autocast_is_at_least_as_accurate_as_in_timm(dim, heads, n, dtype, offset):
    xca = randomise(XCA(dim, heads, qkv_bias=True))
    timm = timm_xcit.XCA(dim, heads, qkv_bias=True)
    timm.load_state_dict(xca.state_dict())
    x = tokens(n, dim).float() + offset
    with torch.no_grad():
        exact = xca(x, "literal")
        with torch.autocast("cpu", dtype):
            ours, theirs = xca(x, "covariance"), timm(x)
    assert ours.dtype == theirs.dtype == dtype
    assert (theirs - exact).any()
    assert (ours - exact).abs().max() <= 1.1 * (theirs - exact).abs().max()
    assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm()


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_rounds_values_and_gradients_at_most_as_much_as_its_dtype(dtype):
    xca, x = randomise(XCA(48, 4, qkv_bias=True)), tokens(200, 48).float()
    exact, literal, covariance = learn(xca, x, "literal"), *(learn(xca, x, form, dtype) for form in FORMS)
    for name, value in covariance.items():
        assert value.dtype == literal[name].dtype
        assert 0 < (value - exact[name]).norm() < torch.finfo(dtype).eps * exact[name].norm(), name


@both_forms
@pytest.mark.parametrize("dtype", HALVES)
def test_an_attention_in_half_precision_has_an_output_in_half_precision(dtype, form):
    xca, x = randomise(XCA(48, 4)), tokens(200, 48).float()
    y = copy.deepcopy(xca).to(dtype)(x.to(dtype), form)
    assert y.dtype == dtype
    assert_close(y, xca(x), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES)
def test_sums_over_tokens_beyond_half_precision_give_numbers(dtype):
    xca, x = randomise(XCA(128, 4, qkv_bias=True)), 30 * tokens(100_000, 128)[:1].float()
    assert x[0, :, 0].square().sum() > torch.finfo(torch.float16).max
    with torch.no_grad():
        with torch.autocast("cpu", dtype):
            y = xca(x, "covariance")
        assert y.isfinite().all()
        assert_close(y, xca(x, "literal"), 0.1)


def multiply_adds(xca, n, form=None):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        xca(torch.empty(1, n, xca.proj.in_features, device="meta"), form)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("dim", "heads"), SHAPES)
def test_the_form_with_fewer_multiply_adds_is_taken(dim, heads):
    xca = XCA(dim, heads, qkv_bias=True).to("meta")
    for factor, cheaper in ((0.5, "literal"), (1.1, "literal"), (1.4, "covariance"), (8, "covariance")):
        n = int(factor * dim)
        counts = {form: multiply_adds(xca, n, form) for form in FORMS}
        assert cheaper_form(n, dim, heads) == cheaper == min(counts, key=counts.get)
        assert multiply_adds(xca, n) == counts[cheaper]


@pytest.mark.parametrize(("patch_size", "share"), [(16, 0.56), (8, 0.50)])
def test_multiply_adds_of_a_detection_image_are_about_half_of_the_literal_forms(patch_size, share):
    xca, n = XCA(384, 8, qkv_bias=True).to("meta"), (800 // patch_size) * (1344 // patch_size)
    assert multiply_adds(xca, n) <= share * multiply_adds(xca, n, "literal")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_tokens_are_kept_for_the_backward_pass(dtype):
    xca = XCA(DIM, HEADS, qkv_bias=True)

    def saved(n):
        storages = {}

        def keep(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        x = tokens(n).float().requires_grad_()
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32)
        with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = xca(x, "covariance")
        assert y.dtype == dtype
        return sum(storage.nbytes() for storage in storages.values())

    assert saved(300) - saved(100) == 2 * 200 * DIM * 4


@pytest.mark.slow
def test_xca_compiles_in_one_graph_and_again_at_most_once_a_form():
    xca = randomise(XCA(DIM, HEADS, qkv_bias=True))
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(xca, backend=backend, fullgraph=True)
    for n in (MANY, MANY + 10, MANY + 33, 200, FEW, FEW + 2, FEW + 4):
        x, same = (tokens(n).float().requires_grad_() for _ in range(2))
        y, expected = compiled(x), xca(same)
        y.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(x.grad, same.grad)
    assert backend.frame_count <= 3  # the first size, any size of its form, and any size of the other form


def test_parts_of_an_image_give_the_covariance_by_sum_and_take_the_token_map_one_by_one():
    xca, x = attention(qkv_bias=True), tokens(MANY)
    parts = x.split(7, dim=1)
    G = sum(xca.covariance(part) for part in parts)
    assert_close(G, xca.covariance(x))
    token_map = xca.token_map(G, x.dtype)
    assert_close(torch.cat([xca.apply_token_map(part, token_map) for part in parts], dim=1), xca(x, form="literal"))


@both_forms
def test_xca_does_not_depend_on_the_order_of_the_tokens(form):
    xca, x = attention(), tokens(MANY)
    order = torch.from_numpy(np.random.default_rng(0).permutation(MANY))
    torch.testing.assert_close(xca(x[:, order], form), xca(x, form)[:, order])


@both_forms
def test_images_of_a_batch_do_not_affect_each_other(form):
    xca, x = attention(), tokens(MANY)
    torch.testing.assert_close(xca(x[1:], form), xca(x, form)[1:])


@pytest.mark.parametrize("name", ["attn_drop", "proj_drop"])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_dropout_acts_only_in_training(name, n):
    xca, plain, x = attention(**{name: 0.5}), attention(), tokens(n)
    torch.manual_seed(0)
    assert not torch.allclose(xca.train()(x), plain.train()(x))
    torch.testing.assert_close(xca.eval()(x), plain.eval()(x))


def test_dropout_of_the_output_zeroes_and_scales():
    xca, plain, x = attention(proj_drop=0.5), attention(), tokens(MANY)
    torch.manual_seed(0)
    y, expected = xca.train()(x), plain(x)
    kept = y != 0
    assert 0.3 < kept.double().mean() < 0.7
    torch.testing.assert_close(y[kept], 2 * expected[kept])


def test_weights_have_the_published_names():
    assert {name: tuple(value.shape) for name, value in XCA(DIM, HEADS, qkv_bias=True).state_dict().items()} == {
        "temperature": (HEADS, 1, 1),
        "qkv.weight": (3 * DIM, DIM),
        "qkv.bias": (3 * DIM,),
        "proj.weight": (DIM, DIM),
        "proj.bias": (DIM,),
    }
    assert "qkv.bias" not in XCA(DIM, HEADS).state_dict()


@pytest.mark.parametrize("heads", [0, -3, 5, 24])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with raises_user_error(f"num_heads={heads}", f"embed_dim={DIM}", "write a divisor of 12"):
        XCA(DIM, heads)
