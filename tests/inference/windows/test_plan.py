"""Windows cover an image, and the weights of each pixel add up to one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcit_dense.errors import UserError
from xcit_dense.inference.windows.plan import Plan

sizes = st.integers(1, 400)


@given(height=sizes, width=sizes, side=st.integers(32, 128), share=st.integers(0, 50))
def test_windows_of_one_size_cover_each_pixel_with_weights_that_add_up_to_one(height, width, side, share):
    plan = Plan(height, width, side, side * share // 100)
    total = np.zeros((height, width))
    for row in range(len(plan.rows)):
        for number, window in enumerate(plan.windows(row)):
            assert (window.height, window.width) == (min(side, height), min(side, width))
            area = total[window.row : window.row + window.height, window.column : window.column + window.width]
            assert area.shape == plan.shape, "the window leaves the image"
            area += plan.row_weights[row][:, None] * plan.column_weights[number]
    np.testing.assert_allclose(total, 1, atol=1e-5)


@given(height=sizes, side=st.integers(32, 128), share=st.integers(0, 50))
def test_final_rows_are_a_partition_and_only_earlier_rows_reach_into_a_row(height, side, share):
    plan = Plan(height, 32, side, side * share // 100)
    ranges = [plan.final_rows(row) for row in range(len(plan.rows))]
    assert [row for first, end in ranges for row in range(first, end)] == list(range(height))
    for row in range(len(plan.rows)):
        reaching = [before for before in range(row) if plan.rows[before] + plan.shape[0] > plan.rows[row]]
        assert list(plan.reaching(row)) == reaching


def test_the_overlap_of_neighbours_is_as_asked_except_at_the_end():
    assert Plan(100, 1000, 256, 32).columns == (0, 224, 448, 672, 744)


@pytest.mark.parametrize(("side", "overlap"), [(31, 0), (64, -1), (64, 33), (64, 64)])
def test_a_window_or_an_overlap_out_of_range_is_refused(side, overlap):
    with pytest.raises(UserError, match="write --"):
        Plan(100, 100, side, overlap)
