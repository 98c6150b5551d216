"""Objects of overlapping windows become the objects of the image."""

import numpy as np
import pytest

pytest.importorskip("shapely", reason="shapely is not installed")

from xcit_dense.inference.windows.merge import Merger
from xcit_dense.inference.windows.objects import Found, Mask, in_image
from xcit_dense.inference.windows.plan import Plan
from xcit_dense.structures import Instances

SIZE = 160


def see(plan, row, objects, masked, jitter=0.0, seed=0):
    """What a perfect detector finds in each window of a row: the visible parts of boxes (x1, y1, x2, y2, label)."""
    noise = np.random.default_rng(seed)
    found = []
    for window in plan.windows(row):
        for number, (x1, y1, x2, y2, label) in enumerate(objects):
            left, top = max(x1 - window.column, 0), max(y1 - window.row, 0)
            right, bottom = min(x2 - window.column, window.width), min(y2 - window.row, window.height)
            if right - left < 2 or bottom - top < 2:
                continue
            mask = np.zeros((1, window.height, window.width), bool)
            mask[0, top:bottom, left:right] = True
            box = np.array([[left, top, right, bottom]]) + noise.uniform(-jitter, jitter, (1, 4))
            score = np.array([0.5 + number / 100])
            found += in_image(Instances(box, np.array([label]), score, mask if masked else None), window, 0.3)
    return found


def merge(plan, objects, masked, jitter=0.0):
    merger, merged = Merger(plan.height, plan.width), []
    for row in range(len(plan.rows)):
        after = plan.rows[row + 1] if row + 1 < len(plan.rows) else plan.height
        merged += merger.add_row(see(plan, row, objects, masked, jitter, row), after)
    return sorted(merged, key=lambda found: (found.label, found.box))


OBJECTS = [
    (4, 4, 20, 24, 0),  # in one window
    (40, 30, 150, 60, 1),  # across three windows
    (50, 50, 90, 90, 0),  # across four windows, complete in none
    (50, 100, 62, 110, 2),  # complete in two windows
    (53, 102, 58, 106, 3),  # in the object before, of another class
    (100, 70, 140, 155, 2),  # across the last rows
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("overlap", [0, 4, 16, 32])
@pytest.mark.parametrize("jitter", [0, 0.4])
def test_an_object_across_windows_counts_once(masked, overlap, jitter):
    found = merge(Plan(SIZE, SIZE, 64, overlap), OBJECTS, masked, jitter)
    expected = sorted(OBJECTS, key=lambda one: (one[4], one))
    assert [one.label for one in found] == [label for *_, label in expected]
    np.testing.assert_allclose([one.box for one in found], [one[:4] for one in expected], atol=2 * jitter + 1e-6)
    if masked:
        for one, (x1, y1, x2, y2, _) in zip(found, expected, strict=True):
            assert (one.mask.column, one.mask.row) == (x1, y1)
            assert one.mask.pixels.shape == (y2 - y1, x2 - x1)
            assert one.mask.pixels.all()


@pytest.mark.parametrize("masked", [False, True])
def test_neighbours_of_one_class_stay_apart(masked):
    objects = [(30, 10, 55, 40, 0), (56, 10, 85, 40, 0), (30, 41, 85, 75, 0), (86, 10, 100, 100, 0)]
    found = merge(Plan(SIZE, SIZE, 64, 32), objects, masked)
    assert [one.box for one in found] == [one[:4] for one in sorted(objects)]


@pytest.mark.parametrize("masked", [False, True])
def test_a_small_object_over_a_large_one_of_its_class_stays(masked):
    objects = [(10, 10, 120, 120, 0), (50, 50, 60, 60, 0)]
    found = merge(Plan(SIZE, SIZE, 64, 32), objects, masked)
    assert [one.box for one in found] == [one[:4] for one in sorted(objects)]


def test_the_score_of_a_merged_object_is_the_highest_one():
    plan = Plan(64, 112, 64, 16)
    left, right = plan.windows(0)
    halves = [Found((30, 10, 64, 20), 0, 0.8, left), Found((48, 10, 70, 20), 0, 0.9, right)]
    (found,) = Merger(64, 112).add_row(halves, 64)
    assert found.score == 0.9


def test_many_objects_take_time_that_is_not_quadratic():
    plan = Plan(64, 64, 64, 0)
    (window,) = plan.windows(0)
    objects = [Found((x, 0, x + 1, 1), 0, 0.5, window) for x in range(20_000)]
    assert len(list(Merger(64, 64).add_row(objects, 64))) == 20_000


def test_an_object_without_pixels_or_with_a_low_score_is_left_out():
    (window,) = Plan(64, 64, 64, 0).windows(0)
    masks = np.zeros((2, 64, 64), bool)
    masks[1] = True
    found = Instances(np.zeros((2, 4)), np.zeros(2, int), np.array([0.9, 0.2]), masks)
    assert not in_image(found, window, 0.3)
    assert len(in_image(found, window, 0.1)) == 1


def test_a_mask_is_cut_at_the_borders_of_an_area():
    (window,) = Plan(64, 64, 64, 0).windows(0)
    mask = Mask(10, 60, np.ones((3, 10), bool))
    assert mask.inside(window).sum() == 12
