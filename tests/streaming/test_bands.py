"""Rows of tokens and of levels are divided over processes."""

from tests.helpers.models import raises_user_error, tiny_xcit
from xcit_dense.streaming.bands import divide_rows, level_rows


def test_bands_begin_where_positions_of_all_levels_begin():
    assert divide_rows(tiny_xcit(), 17, 3) == [range(0, 4), range(4, 8), range(8, 17)]
    assert divide_rows(tiny_xcit(), 1, 1) == [range(0, 1)]


def test_too_many_processes_are_refused():
    with raises_user_error("17 rows", "5 processes", "at most 4"):
        divide_rows(tiny_xcit(), 17, 5)


def test_the_bands_of_a_level_are_the_level():
    backbone = tiny_xcit(patch_size=16, out_strides=(4, 8, 32), out_indices=(0, 1, 3))
    bands = divide_rows(backbone, 17, 3)
    for level, size in enumerate((68, 34, 8)):
        rows = [row for band in bands for row in level_rows(backbone, 17, band)[level]]
        assert rows == list(range(size))
