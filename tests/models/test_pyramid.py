"""The pyramid: strides and sizes of its levels."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.models import raises_user_error
from xcit_dense.models.pyramid import STRIDES, MaxPool, make_levels
from xcit_dense.ops.norms import make_norm_layer

BN = make_norm_layer("BN")
DIM = 4


def level_size(n: int, patch_size: int, stride: int) -> int:
    """Positions of a level along an axis of n tokens: coarser levels round down, but not below 1."""
    return n * patch_size // stride if stride <= patch_size else max(1, n // (stride // patch_size))


@settings(max_examples=15, deadline=None)
@given(patch_size=st.sampled_from([8, 16]), height=st.integers(1, 40), width=st.integers(1, 40))
@example(patch_size=16, height=1, width=1)
@example(patch_size=8, height=1, width=1)
@example(patch_size=8, height=1, width=40)
@example(patch_size=16, height=1, width=40)
@example(patch_size=8, height=17, width=33)
@example(patch_size=16, height=17, width=33)
def test_levels_have_strides_4_8_16_32_for_any_size(patch_size, height, width):
    levels = make_levels(DIM, patch_size, BN)
    with torch.no_grad():
        shapes = [level.eval()(torch.zeros(2, DIM, height, width)).shape for level in levels.values()]
    sizes = [tuple(level_size(n, patch_size, stride) for n in (height, width)) for stride in STRIDES]
    assert shapes == [(2, DIM, *size) for size in sizes]


def test_levels_have_the_published_names_finest_first():
    assert list(make_levels(DIM, 16, BN)) == ["fpn1", "fpn2", "fpn3", "fpn4"]


@pytest.mark.parametrize("patch_size", [8, 16])
def test_the_level_at_the_stride_of_the_tokens_is_the_tokens(patch_size):
    x = torch.randn(1, DIM, 5, 6)
    level = list(make_levels(DIM, patch_size, BN).values())[STRIDES.index(patch_size)]
    assert level(x) is x


def test_only_the_finest_level_of_patch_16_has_a_norm():
    norms = {
        patch_size: [name for name, level in make_levels(DIM, patch_size, BN).items() if contains_norm(level)]
        for patch_size in (8, 16)
    }
    assert norms == {8: [], 16: ["fpn1"]}


def contains_norm(level: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in level.modules())


def test_max_pool_takes_maxima_and_rounds_down():
    x = torch.arange(5 * 7.0).view(1, 1, 5, 7)
    torch.testing.assert_close(MaxPool(2)(x)[0, 0], torch.tensor([[8.0, 10, 12], [22, 24, 26]]))
    torch.testing.assert_close(MaxPool(4)(x)[0, 0], torch.tensor([[24.0]]))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 1), (3, 3)])
def test_max_pool_never_goes_below_one(factor, size):
    pooled = MaxPool(factor)(torch.arange(float(size[0] * size[1])).view(1, 1, *size))
    assert pooled.shape[-2:] == tuple(max(1, n // factor) for n in size)


@pytest.mark.parametrize("patch_size", [4, 12, 32])
def test_another_patch_size_is_refused(patch_size):
    with raises_user_error(f"patch_size={patch_size}", "write patch_size=8 or 16"):
        make_levels(DIM, patch_size, BN)
