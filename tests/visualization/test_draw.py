"""Drawings show detections and label maps legibly, for images of any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("matplotlib", reason="the font is matplotlib's")
from xcit_dense.structures import Instances
from xcit_dense.visualization.draw import draw_instances, draw_label_map, ink_on, make_palette

CLASSES = ("person", "horse", "house")
RED, GREEN, BLUE = PALETTE = [(230, 40, 40), (40, 200, 40), (40, 40, 230)]
GREY = (128, 128, 128)


def blank(width, height, value=255):
    return np.full((height, width, 3), value, np.uint8)


def found(*boxes, labels=None, scores=None, masks=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), int) if labels is None else np.array(labels)
    return Instances(boxes, labels, None if scores is None else np.array(scores), masks)


def where(drawing, colour):
    return (drawing == colour).all(axis=-1)


def extent(places):
    """Left, top, width and height of the area that is true."""
    rows, columns = np.flatnonzero(places.any(axis=1)), np.flatnonzero(places.any(axis=0))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


# Colours


def test_the_colours_of_classes_differ_and_do_not_depend_on_the_number_of_classes():
    palette = make_palette(150)
    assert len(set(palette)) == 150
    assert make_palette(4) == palette[:4]
    assert all(0 <= part <= 255 for colour in palette for part in colour)
    few = np.array(palette[:12])
    assert min(abs(one - other).sum() for n, one in enumerate(few) for other in few[:n]) > 60


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_has_enough_contrast_to_any_colour(colour):
    """The definition of contrast is WCAG 2.1's."""

    def luminance(rgb):
        parts = [part / 255 for part in rgb]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(colour), luminance(ink_on(colour))))
    assert (high + 0.05) / (low + 0.05) >= 4.5


# Objects


@pytest.mark.parametrize(("width", "height"), [(20, 20), (33, 20), (640, 480), (3000, 2000)])
def test_a_box_and_its_label_are_legible_at_any_size(width, height):
    box = (0.3 * width, 0.5 * height, 0.8 * width, 0.9 * height)
    drawing = draw_instances(blank(width, height), found(box, scores=[0.87]), CLASSES, PALETTE)
    factor = drawing.shape[1] // width
    assert drawing.shape == (factor * height, factor * width, 3)
    assert factor == 1 or max(drawing.shape) < 600
    left, top, right, _ = (round(factor * each) for each in box)
    line = where(drawing[:, (left + right) // 2 + 1 : right], RED)[top - 1 :]
    assert line.any(axis=0).all(), "the box has a gap"
    label = drawing[:top, left : left + (right - left) // 2]
    _, _, wide, high = extent(where(label, RED))
    assert high >= max(14, 0.02 * (width * height) ** 0.5)
    assert wide > 2 * high, "no room for a word"
    assert (label[..., 0] < RED[0] / 2).sum() > 0.08 * wide * high, "nothing written"


def test_pixels_outside_of_boxes_do_not_change():
    noise = np.random.default_rng(0).integers(0, 256, (500, 600, 3), np.uint8)
    before = noise.copy()
    assert np.array_equal(draw_instances(noise, found(), CLASSES), noise)
    drawing = draw_instances(noise, found((100, 100, 300, 300)), CLASSES)
    assert np.array_equal(noise, before)
    assert np.array_equal(drawing[310:], noise[310:])
    assert np.array_equal(drawing[:, 310:], noise[:, 310:])
    assert np.array_equal(drawing[130:290, 110:290], noise[130:290, 110:290]), "a box without a mask is hollow"


def test_a_mask_is_transparent_and_has_an_outline():
    mask = np.zeros((1, 480, 640), bool)
    mask[0, 100:300, 100:300] = True
    drawing = draw_instances(blank(640, 480), found((50, 50, 350, 350), masks=mask), CLASSES, PALETTE).astype(int)
    inside = drawing[200, 200]
    assert (inside < 255).any()
    assert (abs(inside - RED) > 20).any()
    for edge in (drawing[200, 100], drawing[200, 299], drawing[100, 200], drawing[299, 200]):
        assert abs(edge - RED).sum() < 0.3 * abs(inside - RED).sum(), "no outline"
    assert (drawing[320, 200] == 255).all(), "filled beyond the mask"


def test_a_mask_is_enlarged_together_with_a_small_image():
    mask = np.zeros((1, 16, 32), bool)
    mask[0, 4:12, 8:24] = True
    drawing = draw_instances(blank(32, 16), found((0, 0, 32, 16), masks=mask), CLASSES, PALETTE)
    factor = drawing.shape[1] // 32
    assert factor > 8
    assert (drawing[6 * factor + 5, 12 * factor] != 255).any()
    assert (drawing[13 * factor, 12 * factor] == 255).all()


def test_the_object_with_the_highest_score_is_on_top():
    masks = np.ones((2, 480, 640), bool)
    boxes = [(10, 50, 600, 400)] * 2
    for scores, colour in (([0.9, 0.4], RED), ([0.4, 0.9], GREEN)):
        drawing = draw_instances(
            blank(640, 480), found(*boxes, labels=[0, 1], scores=scores, masks=masks), CLASSES, PALETTE
        )
        assert where(drawing[399:401], colour).any()
        assert np.argmax(drawing[300, 300][:2]) == (colour is GREEN)


def test_labels_do_not_cover_the_label_with_the_highest_score():
    boxes = np.random.default_rng(0).uniform(0, 30, (60, 4)) + np.array([300, 200, 320, 220])
    labels, scores = np.arange(60) % 2, np.linspace(0.9, 0.3, 60)
    single = draw_instances(blank(640, 480), found(boxes[0], labels=[2], scores=scores[:1]), CLASSES, PALETTE)
    labels[0] = 2
    crowd = draw_instances(blank(640, 480), found(*boxes, labels=labels, scores=scores), CLASSES, PALETTE)
    x, y, width, height = extent(where(single[: int(boxes[0, 1])], BLUE))
    assert height > 10
    assert np.array_equal(crowd[y : y + height, x : x + width], single[y : y + height, x : x + width])
    written = [where(crowd, colour).sum() / (width * height) for colour in (RED, GREEN)]
    assert sum(written) < 20, "as many labels as objects"


def test_objects_that_training_ignores_are_grey():
    drawing = draw_instances(
        blank(640, 480), found((50, 50, 200, 200)), CLASSES, PALETTE, ignored=found((300, 300, 500, 400))
    )
    assert where(drawing[:, :250], RED).any()
    assert not where(drawing[:, :250], GREY).any()
    assert where(drawing[:, 290:], GREY).any()


def test_ground_truth_is_labelled_without_scores():
    def label(**scores):
        return extent(where(draw_instances(blank(640, 480), found((50, 50, 90, 90), **scores), CLASSES)[:50], RED_1))

    (RED_1,) = make_palette(1)
    assert label()[2] < label(scores=[0.5])[2]


@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150)) | st.just((3000, 40)) | st.just((1, 700)),
    st.lists(st.tuples(*[st.floats(-500, 3500) | st.just(np.nan) | st.just(np.inf)] * 4), max_size=4),
)
def test_any_image_size_and_any_box_are_drawn(size, boxes):
    width, height = size
    masks = np.random.default_rng(0).integers(0, 2, (len(boxes), height, width)).astype(bool)
    drawing = draw_instances(blank(width, height), found(*boxes, scores=[0.5] * len(boxes), masks=masks), CLASSES)
    factor = drawing.shape[0] // height
    assert drawing.shape == (factor * height, factor * width, 3)
    assert drawing.dtype == np.uint8


# Label maps


def stripes(width, height, *values):
    return np.array(values)[np.arange(width) * len(values) // width][None].repeat(height, axis=0)


@pytest.mark.parametrize(("width", "height"), [(20, 20), (640, 480), (3000, 2000)])
def test_classes_cover_their_pixels_and_the_legend_sorts_them_by_share(width, height):
    labels = stripes(width, height, 1, 1, 1, 0, 0)
    drawing = draw_label_map(blank(width, height, 0), labels, CLASSES, PALETTE)
    factor = drawing.shape[0] // height
    covered, legend = drawing[:, : factor * width], drawing[:, factor * width :]
    assert np.argmax(covered[factor * height // 2, factor * width // 4]) == 1
    assert np.argmax(covered[factor * height // 2, factor * width * 9 // 10]) == 0
    first, second = (extent(where(legend, colour)) for colour in (GREEN, RED))
    assert first[1] + first[3] < second[1], "not sorted by share"
    assert not where(legend, BLUE).any(), "a class without pixels"
    assert first[3] >= max(10, 0.015 * (width * height) ** 0.5), "too small to see"
    ink = (legend < 100).all(axis=-1)
    assert ink[first[1] : first[1] + first[3], first[0] + first[2] + 3 :].any(), "no name"


def test_the_image_is_visible_through_the_label_map():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 1), np.uint8).repeat(3, axis=2)
    drawing = draw_label_map(noise, np.zeros((512, 512), int), CLASSES, PALETTE)[:, :512]
    fit = np.corrcoef(drawing[..., 1].ravel(), noise[..., 1].ravel())[0, 1]
    assert fit > 0.99


def test_ignored_pixels_are_striped():
    drawing = draw_label_map(blank(512, 512), stripes(512, 512, 255, 0), CLASSES, PALETTE)
    assert len(np.unique(drawing[100, 10:200], axis=0)) == 2
    assert len(np.unique(drawing[100, 300:500], axis=0)) == 1
    assert where(drawing[:, 512:], GREY).any(), "not in the legend"


def test_invalid_labels_differ_from_ignored_ones():
    drawing = draw_label_map(blank(512, 512), stripes(512, 512, 7, 255), CLASSES, PALETTE)
    assert where(drawing[:, 512:], (255, 0, 255)).any(), "not in the legend"
    assert where(drawing[:, 512:], GREY).any(), "not in the legend"
    red, green, _ = drawing[:, :200].mean(axis=(0, 1))
    assert red > green + 100


def test_the_size_of_a_drawing_does_not_depend_on_the_label_map():
    """All frames of a video need the same size."""
    classes = [f"class {number}" for number in range(150)]
    maps = [stripes(60, 30, *range(count)) for count in (1, 4, 60)]
    shapes = {draw_label_map(blank(60, 30), labels, classes).shape for labels in maps}
    assert len(shapes) == 1


@pytest.mark.parametrize("count", [2, 150])
def test_the_legend_of_a_flat_image_has_several_rows(count):
    drawing = draw_label_map(blank(3000, 10), stripes(3000, 10, *range(count)), ["name"] * count)
    rows = (drawing[:, 3000:] != 255).any(axis=(1, 2))
    starts = np.flatnonzero(rows[1:] & ~rows[:-1])
    assert len(starts) == min(count, 8), "a row is missing"
    assert not rows[-3:].any(), "a row is cut off"


@given(st.integers(1, 120), st.integers(1, 120))
def test_label_maps_of_any_size_are_drawn(width, height):
    labels = np.random.default_rng(0).integers(-1, 5, (height, width))
    drawing = draw_label_map(blank(width, height), labels, CLASSES)
    assert drawing.dtype == np.uint8
    assert drawing.shape[1] > 512 * width / max(width, height) / 2
