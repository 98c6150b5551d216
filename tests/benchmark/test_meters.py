"""The cost of a call."""

import pytest
import torch
from torch import nn

from tests.helpers.race import race_options
from xcit_dense.benchmark.meters import count_attention, count_multiply_adds, count_peak_bytes, count_saved_bytes


def test_the_attention_is_counted_in_both_forms():
    N, C, d = 50 * 84, 128, 32
    for batch in (1, 2):
        counts = count_attention(race_options(batch=batch), (800, 1344))
        assert counts["literal"] == batch * 12 * (4 * N * C**2 + 2 * N * C * d)
        tokens = 5 / 3 * N * C**2
        assert tokens < counts["covariance"] / (batch * 12) < 1.1 * (tokens + 3 * C**3 + 2 * C**2 * d)


def test_fused_attention_counts_like_its_products():
    q = torch.randn(1, 2, 8, 24)

    def fused(x):
        return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_multiply_adds(fused, q) == 2 * (2 * 8 * 8 * 24)


def test_saved_bytes_are_counted_once_a_storage_without_the_weights():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            y = x * self.weight  # saves x and the weight
            return (y * y.flip(0)).exp() + y[:1] ** 2  # saves y twice and in part, its flip, and the result of exp

    x = torch.randn(5, 3)
    assert count_saved_bytes(Model(), x) == 4 * x.nbytes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_peak_is_what_a_call_holds_at_most(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    before = torch.ones(2**20, device=device)
    two = count_peak_bytes(lambda: (before + 1) * 2, device) / before.nbytes
    assert two == pytest.approx(2, rel=1e-3)
