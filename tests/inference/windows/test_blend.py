"""Blended windows equal what all windows give in memory. Skipped windows leave pixels without a class."""

import numpy as np
import pytest

from xcit_dense.inference.windows.blend import Blender, choose
from xcit_dense.inference.windows.plan import Plan

PLANS = [Plan(100, 130, 64, 16), Plan(200, 70, 64, 32), Plan(65, 65, 64, 30), Plan(50, 200, 64, 0), Plan(20, 20, 64, 8)]


def random_scores(plan, seed=0, missing=()):
    """The scores of each window, in rows."""
    noise = np.random.default_rng(seed)
    rows = []
    for row in range(len(plan.rows)):
        scores = [noise.dirichlet([1] * 3, plan.shape).transpose(2, 0, 1).astype(np.float32) for _ in plan.columns]
        rows.append([None if (row, column) in missing else one for column, one in enumerate(scores)])
    return rows


def blend(plan, rows, path, first=0):
    """Joins rows of windows; earlier rows only contribute."""
    result = np.full((3, plan.height, plan.width), np.nan, np.float32)
    blender = Blender(plan, 3, path)
    for row in (*plan.reaching(first), *range(first, len(plan.rows))):
        for area, scores in blender.add_row(row, rows[row]):
            if row >= first:
                where = slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)
                result[(slice(None), *where)] = scores
    return result


def in_memory(plan, rows):
    total = np.zeros((3, plan.height, plan.width), np.float32)
    for row, found in enumerate(rows):
        for number, (window, scores) in enumerate(zip(plan.windows(row), found, strict=True)):
            if scores is not None:
                weights = plan.row_weights[row][:, None] * plan.column_weights[number]
                y, x = window.row, window.column
                total[:, y : y + window.height, x : x + window.width] += weights * scores
    return total


@pytest.mark.parametrize("plan", PLANS)
def test_rows_of_windows_give_what_all_windows_in_memory_give(plan, tmp_path):
    rows = random_scores(plan)
    np.testing.assert_allclose(blend(plan, rows, tmp_path / "shared.npy"), in_memory(plan, rows), atol=1e-6)


@pytest.mark.parametrize("plan", [PLANS[1], PLANS[2], Plan(170, 64, 64, 32)])
def test_a_run_that_starts_at_a_later_row_gives_the_same_scores(plan, tmp_path):
    rows = random_scores(plan)
    expected = in_memory(plan, rows)
    for first in range(len(plan.rows)):
        got = blend(plan, rows, tmp_path / "shared.npy", first)
        start = plan.rows[first]
        np.testing.assert_allclose(got[:, start:], expected[:, start:], atol=1e-6)
        assert np.isnan(got[:, :start]).all()


def test_scores_that_agree_have_no_seam(tmp_path):
    plan = Plan(100, 130, 64, 16)
    rows = [[np.full((3, *plan.shape), 1 / 3, np.float32) for _ in plan.columns] for _ in plan.rows]
    np.testing.assert_allclose(blend(plan, rows, tmp_path / "shared.npy"), 1 / 3, atol=1e-6)


def test_a_window_that_is_left_out_leaves_pixels_without_a_class_only_where_it_is_alone(tmp_path):
    plan = Plan(100, 130, 64, 16)
    labels = choose(blend(plan, random_scores(plan, missing={(0, 1)}), tmp_path / "shared.npy"))
    assert (labels[:36, 64:66] == 255).all()
    assert (labels[36:] < 3).all()
    assert (labels[:, :64] < 3).all()


def test_the_classes_of_more_than_255_have_another_value_for_empty_pixels():
    assert choose(np.zeros((300, 1, 1), np.float32)).item() == 65535
