"""Rows of tokens and of levels are divided over processes."""

import pytest

from tests.helpers.models import raises_user_error, tiny_xcit
from xcit_dense.streaming.bands import Bands, divide_rows
from xcit_dense.streaming.levels import level_shapes


def test_bands_begin_where_positions_of_all_levels_begin():
    assert divide_rows(tiny_xcit(), 17, 3) == (range(0, 4), range(4, 8), range(8, 17))
    assert divide_rows(tiny_xcit(), 1, 1) == (range(0, 1),)


def test_too_many_processes_are_refused():
    with raises_user_error("17 rows", "5 processes", "at most 4"):
        divide_rows(tiny_xcit(), 17, 5)


@pytest.mark.parametrize("tokens", range(6, 30))
def test_the_rows_of_a_level_belong_to_the_band_with_their_tokens(tokens):
    backbone = tiny_xcit(patch_size=16, out_strides=(4, 32, 64), out_indices=(0, 1, 3))
    for processes in range(1, tokens // 4 + 1):
        bands = Bands(divide_rows(backbone, tokens, processes))
        for (_, height, _), stride in zip(level_shapes(backbone, tokens, 4), backbone.out_strides):
            rows = bands.of_map(height)
            assert [row for part in rows for row in part] == list(range(height))
            assert [part.start * stride for part in rows] == [band.start * 16 for band in bands.rows]
            assert all(rows)


@pytest.mark.parametrize("patch_size", [8, 16])
def test_each_process_has_rows_of_each_map(patch_size):
    backbone = tiny_xcit(patch_size=patch_size)
    for tokens in range(12, 90):
        pixels = range((tokens - 1) * patch_size + 1, tokens * patch_size + 1)
        enlarged = [height << times for _, height, _ in level_shapes(backbone, tokens, 1) for times in range(4)]
        for processes in (2, 3):
            bands = Bands(divide_rows(backbone, tokens, processes))
            for height in (*enlarged, *pixels):
                rows = bands.of_map(height)
                assert all(rows), (tokens, processes, height)
                assert [row for each in rows for row in each] == list(range(height))
