"""Cross-covariance attention against the paper's definition, written out in plain loops."""

import math

import numpy as np
import pytest
import torch

from xcit_dense.xca import XCA

FEW, MANY = 5, 40  # tokens, fewer and more than channels
DIM, HEADS = 12, 3


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


@pytest.fixture
def attention(fill):
    """Makes an XCA in float64 with random weights."""

    def make(**options):
        return fill(XCA(DIM, HEADS, **options).double())

    return make


@pytest.fixture
def tokens():
    """Makes random tokens in float64."""
    return lambda n, dim=DIM: torch.from_numpy(np.random.default_rng(n).standard_normal((2, n, dim)))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("n", [1, FEW, MANY])
def test_xca_is_the_papers_definition(attention, tokens, n, qkv_bias):
    xca, x = attention(qkv_bias=qkv_bias), tokens(n)
    torch.testing.assert_close(xca(x), torch.from_numpy(attend_in_loops(xca, x.numpy())), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heads", [1, DIM])
def test_xca_is_the_papers_definition_with_one_head_and_with_a_head_a_channel(fill, tokens, heads):
    xca, x = fill(XCA(DIM, heads).double()), tokens(MANY)
    torch.testing.assert_close(xca(x), torch.from_numpy(attend_in_loops(xca, x.numpy())), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [48, 500])
def test_xca_in_single_precision_is_the_papers_definition(fill, tokens, close, n):
    xca, x = fill(XCA(48, 4, qkv_bias=True)), tokens(n, 48)
    close(xca(x.float()), torch.from_numpy(attend_in_loops(xca, x.numpy())).float(), 1e-5)


@pytest.mark.parametrize("n", [FEW, MANY])
def test_channels_that_are_zero_on_all_tokens_give_numbers(attention, tokens, n):
    xca, x = attention(qkv_bias=False), torch.zeros_like(tokens(n)).requires_grad_()
    y = xca(x)
    torch.testing.assert_close(y, torch.from_numpy(attend_in_loops(xca, x.detach().numpy())))
    y.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("n", [3, 12])
def test_gradients_of_xca_are_those_of_its_values(fill, tokens, n, qkv_bias):
    xca, x = fill(XCA(4, 2, qkv_bias=qkv_bias).double()), tokens(n, 4).requires_grad_()
    names, values = zip(*xca.named_parameters())

    def run(x, *parameters):
        return torch.func.functional_call(xca, dict(zip(names, parameters)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


def test_xca_does_not_depend_on_the_order_of_the_tokens(attention, tokens):
    xca, x = attention(), tokens(MANY)
    order = torch.from_numpy(np.random.default_rng(0).permutation(MANY))
    torch.testing.assert_close(xca(x[:, order]), xca(x)[:, order])


def test_images_of_a_batch_do_not_see_each_other(attention, tokens):
    xca, x = attention(), tokens(MANY)
    torch.testing.assert_close(xca(x[1:]), xca(x)[1:])


@pytest.mark.parametrize("name", ["attn_drop", "proj_drop"])
@pytest.mark.parametrize("n", [FEW, MANY])
def test_dropout_acts_in_training_alone(attention, tokens, name, n):
    xca, plain, x = attention(**{name: 0.5}), attention(), tokens(n)
    torch.manual_seed(0)
    assert not torch.allclose(xca.train()(x), plain.train()(x))
    torch.testing.assert_close(xca.eval()(x), plain.eval()(x))


def test_dropout_of_the_output_zeroes_and_scales(attention, tokens):
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
def test_heads_that_do_not_divide_the_width_are_refused(user_error, heads):
    with user_error(f"num_heads={heads}", f"embed_dim={DIM}", "write a divisor of 12"):
        XCA(DIM, heads)
