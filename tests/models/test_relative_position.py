"""Tables of relative positions, resized as the authors of BEiT resize them."""

import numpy as np
import pytest
import torch

from tests.helpers.seeds import SEEDS
from xcit_dense.models.relative_position import Grid, resize_table

TABLES = np.load(SEEDS / "rel_pos_tables.npz")
RESIZED = sorted(name for name in TABLES.files if "_to_" in name)


@pytest.mark.parametrize("name", RESIZED)
def test_resized_tables_equal_those_of_the_authors(name):
    before, after = (int(part) for part in name.removeprefix("table_").split("_to_"))
    table = torch.from_numpy(TABLES[f"table_{before}"])
    resized = resize_table(table, (before, before), (after, after))
    wanted = torch.from_numpy(TABLES[name])
    assert (resized - wanted).abs().max() / wanted.std() < 1e-5
    assert torch.equal(resized[-3:], table[-3:])


def test_each_axis_of_a_table_is_resized_by_itself():
    table = torch.rand(7 * 7 + 3, 2)
    both = resize_table(table, (4, 4), (6, 5))
    rows_first = resize_table(resize_table(table, (4, 4), (6, 4)), (6, 4), (6, 5))
    torch.testing.assert_close(both, rows_first)


def test_a_constant_table_stays_constant_at_any_size():
    for size in ((1, 1), (2, 3), (3, 9), (20, 7)):
        for old in ((1, 1), (2, 2), (4, 4)):
            table = torch.full(((2 * old[0] - 1) * (2 * old[1] - 1) + 3, 1), 0.7)
            resized = resize_table(table, old, size)
            assert len(resized) == (2 * size[0] - 1) * (2 * size[1] - 1) + 3
            torch.testing.assert_close(resized, torch.full_like(resized, 0.7))


def test_the_index_of_a_grid_names_the_offset_of_each_pair():
    rows, columns = 3, 4
    index = Grid((rows, columns), torch.device("cpu")).index(0, 1 + rows * columns)
    offsets = (2 * rows - 1) * (2 * columns - 1)
    for query in range(rows * columns):
        for key in range(rows * columns):
            down = query // columns - key // columns + rows - 1
            right = query % columns - key % columns + columns - 1
            assert index[1 + query, 1 + key] == down * (2 * columns - 1) + right
    assert index[0, 1:].eq(offsets).all()
    assert index[1:, 0].eq(offsets + 1).all()
    assert index[0, 0] == offsets + 2


def test_the_index_of_some_queries_is_a_part_of_the_index():
    grid = Grid((3, 4), torch.device("cpu"))
    complete = grid.index(0, 13)
    for start, stop in ((0, 1), (0, 5), (4, 9), (12, 13)):
        assert torch.equal(grid.index(start, stop), complete[start:stop])
