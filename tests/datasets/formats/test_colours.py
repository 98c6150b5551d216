"""Tables of colours are read as annotation tools write them, and label images are read by these tables."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.colours import find_table, read_table, read_with_table, voc_palette

RED, GREEN = (255, 0, 0), (0, 128, 0)


@pytest.mark.parametrize(
    "text",
    [
        "# label:color_rgb:parts:actions\nsky:255,0,0::\nlane 2:0,128,0::\n",  # labelmap.txt of CVAT
        "255 0 0 sky\n0 128 0 lane 2\n",  # label_colors.txt of CVAT's Cityscapes
        "255 0 0\tsky\n0 128 0\tlane 2\n",  # label_colors.txt of CamVid
        "name,r,g,b\nsky,255,0,0\nlane 2,0,128,0\n",  # class_dict.csv
        "\ufeffsky: 255, 0, 0\n\nlane 2: 0, 128, 0\n",
        "sky #FF0000\nlane 2 #008000\n",
    ],
)
def test_a_table_of_colours_is_read(tmp_path, text):
    (tmp_path / "table.txt").write_text(text, "utf-8")
    table = read_table(tmp_path / "table.txt")
    assert table.classes == ("sky", "lane 2")
    assert (table.colours[RED], table.colours[GREEN]) == (0, 1)
    assert table.palette == (RED, GREEN)


def test_a_table_of_values_is_read(tmp_path):
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cup\n3, dog\n")
    table = read_table(tmp_path / "_classes.csv")
    assert table.classes == ("background", "cup", "dog")
    assert table.values == {255: 255, 0: 0, 1: 1, 3: 2}
    assert not table.is_identity


@pytest.mark.parametrize("text", ["", "name,r,g,b\n", "a:1,2,3\nb:1,2,3\n", "a:1,2,300\n", "a,1\nb,1\n"])
def test_a_file_that_is_not_a_table_is_refused(tmp_path, text):
    (tmp_path / "table.txt").write_text(text)
    with raises_user_error(tmp_path / "table.txt"):
        read_table(tmp_path / "table.txt")


def test_the_first_directory_with_a_table_is_taken(tmp_path):
    assert find_table([tmp_path]) is None
    (tmp_path / "train").mkdir()
    (tmp_path / "train/_classes.csv").write_text("0, background\n1, cup\n")
    assert find_table([tmp_path, tmp_path / "train"]).classes == ("background", "cup")


def label_image(kind):
    """Two pixels in each of three classes and without a label, as images of different kinds."""
    values = np.array([[0, 1, 2, 255], [0, 1, 2, 255]], np.uint8)
    colours = np.array(voc_palette(), np.uint8)
    if kind == "RGB":
        return Image.fromarray(colours[values])
    if kind == "RGBA":
        return Image.fromarray(np.dstack([colours[values], np.full_like(values, 255)]))
    image = Image.fromarray(values)
    if kind == "P":
        image.putpalette(colours.tobytes())
    elif kind == "grey P":
        image.putpalette(np.repeat(np.arange(256), 3).astype(np.uint8).tobytes())
    elif kind == "LA":
        image = image.convert("LA")
    elif kind == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    return image


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "grey P", "L", "LA", "I;16"])
def test_label_images_of_every_kind_are_read_by_a_table(tmp_path, kind):
    lines = [f"{name}:{','.join(map(str, voc_palette()[number]))}::\n" for number, name in enumerate("abc")]
    (tmp_path / "labelmap.txt").write_text("".join(lines))
    label_image(kind).save(tmp_path / "a.png")
    label = read_with_table(tmp_path / "a.png", read_table(tmp_path / "labelmap.txt"))
    assert label.dtype == np.uint8
    assert label.tolist() == [[0, 1, 2, 255]] * 2


def test_the_order_of_the_table_numbers_the_classes(tmp_path):
    (tmp_path / "table.txt").write_text("c:0,128,0\nb:128,0,0\na:0,0,0\n")
    label_image("RGB").save(tmp_path / "a.png")
    assert read_with_table(tmp_path / "a.png", read_table(tmp_path / "table.txt")).tolist() == [[2, 1, 0, 255]] * 2


def test_lines_of_one_name_are_one_class(tmp_path):
    (tmp_path / "table.txt").write_text("a:0,0,0\nb:128,0,0\nb:0,128,0\n")
    label_image("RGB").save(tmp_path / "a.png")
    assert read_with_table(tmp_path / "a.png", read_table(tmp_path / "table.txt")).tolist() == [[0, 1, 1, 255]] * 2


def test_a_colour_that_the_table_lacks_is_refused_with_its_file(tmp_path):
    (tmp_path / "table.txt").write_text("a:0,0,0\nb:128,0,0\n")
    label_image("RGB").save(tmp_path / "a.png")
    with raises_user_error(tmp_path / "a.png", "1 colours", "(0, 128, 0)", "table.txt"):
        read_with_table(tmp_path / "a.png", read_table(tmp_path / "table.txt"))
