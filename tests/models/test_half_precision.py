"""Half precision: trainings reach the loss of fp32, and extreme attention stays precise in fp32, bf16 and fp16."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.models import assert_close, randomise
from xcit_dense.models.blocks import XCABlock
from xcit_dense.models.xca import XCA

FORMS = ("literal", "covariance")
HALVES = (torch.bfloat16, torch.float16)
HEIGHT, WIDTH = 240, 250  # 60,000 tokens: an image of 1920 x 2000 pixels at patch size 8


# Stress


def tolerance(dtype):
    """Largest error of an output, divided by the standard deviation of the fp64 output."""
    return 1e-4 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps


def stressed(module, attention, norms):
    """Multiplies the gains of norms by 30 and the first temperature (1) by 100, and zeroes a query and a key."""
    with torch.no_grad():
        attention.temperature.fill_(100)
        for norm in norms:
            norm.weight *= 30
        for channel in (1, attention.proj.in_features + 2):
            attention.qkv.weight[channel] = attention.qkv.bias[channel] = 0
    return module.eval()


def error_is_small(module, x, dtype, autocast):
    """Runs a module in a dtype, or in mixed precision, and compares it with the same weights in fp64."""
    if not autocast:
        module, x = module.to(dtype), x.to(dtype)
    with torch.no_grad():
        with torch.autocast("cpu", dtype, enabled=autocast):
            y = module(x)
        exact = copy.deepcopy(module).double()(x.double())
    assert y.isfinite().all()
    assert_close(y.double(), exact, tolerance(dtype))


precisions = pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), *((half, autocast) for half in HALVES for autocast in (False, True))],
)


@pytest.mark.parametrize("form", FORMS)
@precisions
def test_extreme_attention_over_sixty_thousand_tokens_is_precise(dtype, autocast, form):
    dim = 48
    attention, norm = randomise(XCA(dim, 4, qkv_bias=True)), randomise(nn.LayerNorm(dim))
    attention.form = form
    module = stressed(nn.Sequential(norm, attention), attention, [norm])
    x = torch.randn(1, HEIGHT * WIDTH, dim, generator=torch.Generator().manual_seed(0))
    error_is_small(module, x, dtype, autocast)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_an_extreme_block_of_sixty_thousand_tokens_is_precise(dtype):
    dim = 32
    block = randomise(XCABlock(dim, 4, 4.0, True, 0.0, 0.0, 0.0, 1.0, nn.BatchNorm2d))
    block = stressed(block, block.attn, [block.norm1, block.norm2, block.norm3])
    x = torch.randn(1, dim, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)
    error_is_small(block, x, dtype, autocast=dtype != torch.float32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", HALVES)
def test_scores_of_similar_channels_are_not_rounded_to_half_precision(dtype, form):
    # All cosines are near 1. Half precision would round them by more than they differ, and the temperature is 100.
    dim, generator = 16, torch.Generator().manual_seed(0)
    attention = randomise(XCA(dim, 2, qkv_bias=True))
    attention.form = form
    with torch.no_grad():
        attention.temperature.fill_(100)
        rows = attention.qkv.weight[: 2 * dim]
        rows.copy_(torch.randn(1, dim, generator=generator) / dim**0.5 + 0.1 * rows)
    x = torch.randn(1, 400, dim, generator=generator)
    error_is_small(attention, x, dtype, autocast=False)


# Training


def train(dtype, seed, form, steps, scale=2.0**16):
    """Trains 24 thin blocks, and returns the losses.

    The target of a position depends on its neighbours. The model can learn it only with its blocks.
    """
    torch.manual_seed(seed)
    dim, eta = 16, 1e-5
    blocks = [XCABlock(dim, 2, 4.0, True, 0.0, 0.0, 0.0, eta, nn.BatchNorm2d) for _ in range(24)]
    for block in blocks:
        block.attn.form = form
    model = nn.Sequential(nn.Conv2d(4, dim, 1), *blocks, nn.Conv2d(dim, 1, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype == torch.float16)
    images, losses = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        x = torch.randn(4, 4, 6, 6, generator=images)
        target = F.conv2d(x, torch.full((1, 4, 1, 3), 1 / 3.5), padding=(0, 1)).tanh()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y = model(x)
        loss = F.mse_loss(y.float(), target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return torch.tensor(losses)


def same_loss_in_every_precision(form, steps, fall):
    """Trains in each precision. Losses of the last quarter differ by less than the losses of two seeds differ."""
    last = steps // 4
    single, other = (train(torch.float32, seed, form, steps) for seed in (0, 1))
    assert single[-last:].mean() < fall * single[:last].mean(), "does not learn"
    spread = (single - other)[-last:].mean().abs()
    for dtype in HALVES:
        losses = train(dtype, 0, form, steps)
        assert losses.isfinite().all()
        assert (losses - single)[-last:].mean().abs() < spread, dtype


def test_24_blocks_reach_the_same_loss_in_every_precision():
    same_loss_in_every_precision(None, steps=6, fall=0.9)


@pytest.mark.slow
@pytest.mark.matrix
def test_24_blocks_with_the_literal_form_learn_from_neighbours_in_every_precision():
    same_loss_in_every_precision("literal", steps=24, fall=0.5)
