"""Contact sheets show many drawings in the order of reading, with captions that stay below their drawing."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the font is matplotlib's")
from xcit_dense.structures import Instances
from xcit_dense.visualization.contact_sheet import (
    TILE,
    Tile,
    fit,
    make_contact_sheet,
    shrink_image,
    shrink_instances,
    shrink_map,
)


def plain(colour, height=60, width=90):
    return np.full((height, width, 3), colour, np.uint8)


def centre(sheet, colour):
    rows, columns = np.nonzero((sheet == colour).all(axis=-1))
    return rows.mean(), columns.mean()


def test_tiles_are_in_the_order_of_reading():
    colours = [(200, 10 * number, 50) for number in range(9)]
    sheet = make_contact_sheet([Tile(plain(colour), f"{colour}") for colour in colours])
    places = [centre(sheet, colour) for colour in colours]
    assert sorted(places) == places
    rows = {round(row) for row, _ in places}
    assert len(rows) == 3, "up to four columns"


def test_a_large_drawing_is_reduced_to_a_tile():
    sheet = make_contact_sheet([Tile(plain((200, 10, 50), 2000, 1000), "large")])
    assert (sheet == (200, 10, 50)).all(axis=-1).sum() == TILE * TILE / 2


@pytest.mark.parametrize("caption", ["word " * 200, "x" * 500, "", "ä/ö$^{"])
def test_a_caption_stays_below_its_own_drawing(caption):
    tiles = [Tile(plain((255, 255, 255)), text) for text in (caption, "")]
    sheet = make_contact_sheet(tiles)
    columns = np.flatnonzero((sheet < 128).any(axis=(0, 2)))
    assert (columns.max() < TILE + 32) if caption else not len(columns)
    assert sheet.shape[0] < 200, "at most three lines"


def test_the_legend_has_the_colours_of_the_classes_and_a_limited_size():
    few = make_contact_sheet([Tile(plain(255), "a")], legend=[("cat", (10, 200, 10)), ("dog", (10, 10, 200))])
    assert all((few == colour).all(axis=-1).sum() > 100 for colour in ((10, 200, 10), (10, 10, 200)))
    many = make_contact_sheet([Tile(plain(255), "a")], legend=[(f"class {n}", (10, 200, 10)) for n in range(1203)])
    assert many.shape[0] < few.shape[0] + 150


def test_objects_stay_on_their_image_when_it_is_reduced():
    image = plain((255, 255, 255), 1200, 900)
    mask = np.zeros((1, 1200, 900), bool)
    mask[:, 300:900, 90:450] = True
    image[mask[0]] = 0
    found = Instances(np.array([[90.0, 300, 450, 900]]), np.array([0]), masks=mask)
    small, objects = shrink_image(image), shrink_instances(found, 1200, 900)
    assert small.shape == (480, 360, 3)
    assert objects.boxes.tolist() == [[36, 120, 180, 360]]
    x1, y1, x2, y2 = objects.boxes[0].astype(int)
    assert objects.masks[0, y1:y2, x1:x2].all()
    assert objects.masks.sum() == (y2 - y1) * (x2 - x1)
    assert ((small.mean(axis=-1) < 128) == objects.masks[0]).mean() > 0.99


def test_a_reduced_label_map_has_only_values_of_the_original():
    label_map = np.random.default_rng(0).choice([0, 7, 255], (1000, 700))
    small = shrink_map(label_map)
    assert small.shape == fit(1000, 700)
    assert set(np.unique(small)) == {0, 7, 255}


def test_small_images_keep_their_size():
    assert shrink_image(plain(7, 20, 30)).shape == (20, 30, 3)
