"""The floor: the matrix products of a step, and the ways to compute them."""

import pytest
import torch

from tests.helpers.race import race_options
from xcit_dense.benchmark.floor import MatrixProduct, list_products, ways


def test_the_floor_has_the_products_of_all_layers():
    N, C = 4 * 6, 128
    stem = 32 * 48 * 27 * 16 + 16 * 24 * 9 * 16 * 32 + 8 * 12 * 9 * 32 * 64 + N * 9 * 64 * C
    pyramid = 6 * N * 4 * C * C
    mlp, token_map = 12 * 2 * N * 4 * C * C, 12 * N * C * C
    gram = 12 * N * (43 * 128 + 43 * 85 + 42 * 42)

    def total(train):
        counts = list_products(race_options(train=train, batch=3), (64, 96))
        return sum(count * p.batch * p.rows * p.inner * p.columns for p, count in counts.items())

    assert total(train=False) == 3 * (stem + pyramid + mlp + token_map + gram)
    image = 32 * 48 * 27 * 16  # its gradient is not needed
    assert total(train=True) == 3 * (3 * (stem + pyramid + mlp) - image + 4 * token_map + gram)


def test_the_covariance_is_three_strips():
    counts = list_products(race_options(variant="small_12_p8", batch=1, train=False), (800, 1344))
    N = 100 * 168
    for strip in (MatrixProduct(1, 128, N, 384), MatrixProduct(1, 128, N, 256), MatrixProduct(1, 128, N, 128)):
        assert counts[strip] == 12
    assert MatrixProduct(1, 384, N, 384) not in counts


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(40, 8, 12), (8, 40, 12)])
def test_the_ways_of_a_product_give_the_same(batch, rows, inner, columns):
    source, target = torch.randn(batch * 1000), torch.zeros(batch * 1000)
    found = ways(MatrixProduct(batch, rows, inner, columns), source, target)
    assert len(found) == (2 if batch == 1 and inner < rows else 1)
    left = source[: batch * rows * inner]
    left = left.view(batch, inner, rows).mT if inner > rows else left.view(batch, rows, inner)
    for way in found:
        right = source[: batch * inner * columns].view(batch, inner, columns)
        got = way()
        if got.ndim == 4:  # a convolution: its weight is the transpose
            right = source[: inner * columns].view(1, columns, inner).mT
            got = got.permute(0, 2, 3, 1)
        torch.testing.assert_close(got.reshape(batch, rows, columns), left @ right)
