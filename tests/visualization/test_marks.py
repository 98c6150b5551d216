"""Marks show where a fault is, also outside the image."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the font is matplotlib's")
from xcit_dense.visualization.contact_sheet import TILE
from xcit_dense.visualization.marks import draw_mark, draw_placeholder

YELLOW = (255, 255, 0)
IMAGE = np.full((100, 200, 3), (0, 0, 160), np.uint8)


def extent(drawing, colour):
    rows, columns = np.nonzero((drawing == colour).all(axis=-1))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_box_inside_the_image_is_drawn_at_its_place():
    drawing = draw_mark(IMAGE, (50, 20, 150, 80))
    assert drawing.shape == (TILE // 2, TILE, 3)
    np.testing.assert_allclose(extent(drawing, YELLOW), np.array([50, 20, 150, 80]) * TILE / 200, atol=3)


@pytest.mark.parametrize("box", [(210, 20, 260, 60), (-70, -30, -10, -5), (150, 50, 230, 130)])
def test_a_box_outside_the_image_is_complete_in_the_drawing(box):
    drawing = draw_mark(IMAGE, box)
    assert max(drawing.shape) == TILE
    left, top, right, bottom = extent(drawing, YELLOW)
    assert left > 0
    assert top > 0
    assert right < drawing.shape[1] - 1
    assert bottom < drawing.shape[0] - 1
    scale = (drawing == (0, 0, 160)).all(axis=-1).any(axis=0).sum() / 200
    assert (right - left) / (box[2] - box[0]) == pytest.approx(scale, rel=0.2)


def test_a_box_very_far_outside_does_not_make_the_image_invisible():
    drawing = draw_mark(IMAGE, (1e9, 0, 1e9 + 10, 10))
    left, _, right, _ = extent(drawing, (0, 0, 160))
    assert right - left > TILE / 3


@pytest.mark.parametrize("polygon", [[100, 50], [100, 50, 100.5, 50.5], [100, 50, 100.2]])
def test_a_tiny_mark_is_visible(polygon):
    left, top, right, bottom = extent(draw_mark(IMAGE, polygons=[polygon]), YELLOW)
    assert min(right - left, bottom - top) > 30


def test_invalid_numbers_leave_the_image_as_it_is():
    drawing = draw_mark(IMAGE, (float("nan"), 0, 10, 10), [[], [5]])
    assert (drawing == (0, 0, 160)).all()


def test_a_placeholder_has_the_width_of_a_tile_and_the_text_inside():
    tile = draw_placeholder("a long reason " * 30)
    assert tile.shape[1] == TILE
    rows, columns = np.nonzero((tile < 100).all(axis=-1))
    assert columns.min() > 5
    assert columns.max() < TILE - 5
    assert rows.max() < tile.shape[0] - 5
