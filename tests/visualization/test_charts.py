"""Charts are legible for one class and for a thousand, and show what is rare or missing."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="the charts are drawn with matplotlib")
from xcit_dense.errors import UserError
from xcit_dense.visualization.charts import draw_class_counts, draw_sizes

BLUE, ORANGE, RED = (0, 114, 178), (230, 159, 0), (176, 0, 32)
STRIDES = (4, 8, 16, 32)


@pytest.fixture
def drawn(tmp_path):
    """Draws the counts of classes. Returns the pixels."""

    def draw(*splits):
        names = [f"class {number}" for number in range(len(splits[0]))]
        counts = {split: dict(zip(names, values)) for split, values in zip(("train", "val", "test"), splits)}
        draw_class_counts(tmp_path / "classes.png", counts, "objects", "a title")
        return np.asarray(Image.open(tmp_path / "classes.png").convert("RGB"))

    return draw


def near(pixels, colour):
    return (abs(pixels.astype(int) - colour) < 12).all(axis=-1)


def bars(pixels, colour):
    """The lengths of the bars of a colour in pixels, from top to bottom. The legend has a short bar too."""
    places = near(pixels, colour)
    starts = np.flatnonzero(np.diff(places.any(axis=1).astype(int), prepend=0) == 1)
    return [int(places[start + 3].sum()) for start in starts]


def test_the_length_of_a_bar_is_the_count_and_frequent_classes_are_first(drawn):
    one, other, *_ = bars(drawn([20, 40]), BLUE)
    assert one == pytest.approx(2 * other, rel=0.02)


def test_rare_classes_are_visible_next_to_frequent_ones(drawn):
    lengths = bars(drawn([100_000, 1]), BLUE)
    assert lengths[1] > 10


def test_a_class_without_objects_is_marked(drawn):
    assert near(drawn([5, 0]), RED).any()
    assert not near(drawn([5, 1]), RED).any()
    assert near(drawn([5, 1], [2, 0]), RED).any()


@pytest.mark.parametrize(("classes", "splits"), [(1, 1), (41, 2), (80, 3)])
def test_every_class_has_a_bar_for_each_split(drawn, classes, splits):
    pixels = drawn(*[range(1000, 1000 + classes)] * splits)
    assert max(pixels.shape) < 3500
    columns = -(-classes // 40)
    width = pixels.shape[1] // columns
    found = [bars(pixels[:, number * width : (number + 1) * width], BLUE) for number in range(columns)]
    legend = int(splits > 1)
    assert classes <= sum(map(len, found)) <= classes + legend
    assert near(pixels, ORANGE).any() == (splits > 1)


def test_a_thousand_classes_fit_into_one_image(drawn):
    counts = [round(1e5 / (1 + number) ** 2) for number in range(1203)]
    pixels = drawn(counts, counts[::-1])
    assert max(pixels.shape) < 2500
    assert near(pixels, RED).any(), "the rarest classes have no objects"


def test_data_without_any_object_is_drawn(drawn):
    assert near(drawn([0, 0], [0, 0]), RED).any()


def test_names_may_contain_any_character(tmp_path):
    names = ["$x^{2$", "a" * 300, "日本", "_", "a\nb"]
    draw_class_counts(tmp_path / "a.png", {"train": dict.fromkeys(names, 3)}, "objects", "")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width < 1500


def histogram(tmp_path, *sizes):
    draw_sizes(tmp_path / "sizes.png", np.array(sizes, float), STRIDES, "objects", "a title")
    return np.asarray(Image.open(tmp_path / "sizes.png").convert("RGB"))


def test_objects_below_the_first_stride_are_left_of_its_line(tmp_path):
    pixels = histogram(tmp_path, 2.5)
    rows = slice(pixels.shape[0] // 3, pixels.shape[0] // 2)
    dark = (pixels[rows] < 60).all(axis=-1).mean(axis=0)
    lines = [column for column in np.flatnonzero(dark > 0.4) if column > 150]
    columns = np.flatnonzero(near(pixels, BLUE).any(axis=0))
    assert columns.max() < min(lines)
    assert near(histogram(tmp_path, 40.0), BLUE).any(axis=0).argmax() > max(lines)


@pytest.mark.parametrize("sizes", [(), (0.0,), (0.01,), (1e5,), (1.0, 3.0, 3000.0)])
def test_any_sizes_are_drawn(tmp_path, sizes):
    pixels = histogram(tmp_path, *sizes)
    assert near(pixels, BLUE).any() == any(sizes)
    assert near(pixels, RED).any() == (not any(sizes)), "a notice in place of the bars"


def test_an_unwritable_chart_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        draw_sizes(tmp_path / "file/sizes.png", np.ones(3), STRIDES, "objects", "")
