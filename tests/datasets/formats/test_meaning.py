"""What the pixels of label images mean is found, or the user is asked for it in one sentence."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.colours import voc_palette
from xcit_dense.datasets.formats.label_maps import find
from xcit_dense.datasets.formats.meaning import interpret, with_classes_of

VOC = np.array(voc_palette(), np.uint8)


@pytest.fixture
def data(tmp_path):
    """Makes images with the given label images, and finds them."""

    def make(*labels, names=None, mode=None):
        for number, label in enumerate(labels):
            pixels = np.asarray(label)
            if pixels.dtype == np.int64:
                pixels = pixels.astype(np.uint8)
            for directory in ("images", "masks"):
                (tmp_path / directory).mkdir(exist_ok=True)
            Image.new("RGB", pixels.shape[1::-1]).save(tmp_path / f"images/{number}.jpg")
            image = Image.fromarray(pixels)
            (image.convert(mode) if mode else image).save(tmp_path / f"masks/{number}.png")
        if names:
            (tmp_path / "classes.txt").write_text("\n".join(names))
        return find(tmp_path)

    return make


def labels_of(data):
    return [data.read_label(pair).tolist() for pair in data.splits["train"]]


@pytest.mark.parametrize("names", [None, ["ground", "cup"]])
@pytest.mark.parametrize(("white", "mode"), [(255, None), (255, "RGB"), (255, "LA"), (65535, None)])
def test_masks_of_two_values_are_background_and_object(data, names, white, mode):
    pixels = np.array([[0, white]], np.uint16 if white > 255 else np.uint8)
    read = interpret(data(pixels, np.zeros_like(pixels), names=names, mode=mode))
    assert read.classes == tuple(names or ("background", "object"))
    assert labels_of(read) == [[[0, 1]], [[0, 0]]]
    assert str(white) in read.notes[0]
    assert read.classes[1] in read.notes[0]


def test_masks_of_two_values_with_three_names_are_refused(data):
    with raises_user_error("0 and 255", "3 class names", "road, car, sky"):
        interpret(data([[0, 255]], names=["road", "car", "sky"]))


def test_masks_of_two_values_whose_background_is_ignored_are_refused(data):
    with raises_user_error("0 and 255 are ignored", "needs two"):
        interpret(data([[0, 255]]), ignore_zero=True)


@pytest.mark.parametrize("kind", [np.uint8, bool, np.uint16])
def test_values_that_number_classes_are_not_converted(data, kind):
    read = interpret(data(np.array([[0, 1]], kind)))
    assert read.classes == ("class 0", "class 1")
    assert read.read_label is None
    assert read.layout is not None


def test_values_above_a_mask_are_classes_and_255_is_ignored(data):
    read = interpret(data([[0, 255]], [[0, 1]], names=["a", "b"]))
    assert read.classes == ("a", "b")
    assert read.read_label is None


def test_values_in_equal_bands_are_read(data):
    read = interpret(data([[0, 1, 255]], [[2, 2, 0]], mode="RGB"))
    assert read.classes == ("class 0", "class 1", "class 2")
    assert labels_of(read) == [[[0, 1, 255]], [[2, 2, 0]]]


@pytest.mark.parametrize(("ignore_zero", "expected"), [(False, [[0, 1, 2, 255]]), (True, [[255, 0, 1, 255]])])
def test_the_palette_of_pascal_voc_is_known(data, ignore_zero, expected):
    read = interpret(data(VOC[[[0, 1, 2, 255]]], VOC[[[0, 0, 0, 0]]]), ignore_zero=ignore_zero)
    assert read.classes == ("class 0", "class 1", "class 2")[int(ignore_zero) :]
    assert labels_of(read)[0] == expected
    assert not read.ignore_zero
    assert "Pascal VOC" in read.notes[0]
    assert read.palette == tuple(voc_palette()[int(ignore_zero) : 3])


def test_the_palette_of_pascal_voc_takes_given_names(data):
    read = interpret(data(VOC[[[0, 1, 2, 255]]]), ["ground", "cat", "dog"])
    assert read.classes == ("ground", "cat", "dog")


def test_black_and_another_colour_are_background_and_object(data):
    read = interpret(data(np.array([[[0, 0, 0], [250, 7, 7]]], np.uint8)))
    assert read.classes == ("background", "object")
    assert labels_of(read) == [[[0, 1]]]


COLOURS = np.array([[[9, 9, 9], [200, 0, 0], [0, 0, 7]]], np.uint8)


def test_unknown_colours_are_refused_with_what_to_write(data):
    with raises_user_error("3 colours", "200,0,0", "0,0,7", "--colours FILE", "labelmap.txt", "name,r,g,b"):
        interpret(data(COLOURS))


def test_a_file_of_colours_names_them(data, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("sky,9,9,9\nroad,200,0,0\ncar,0,0,7\n")
    read = interpret(data(COLOURS), colours=path)
    assert read.classes == ("sky", "road", "car")
    assert labels_of(read) == [[[0, 1, 2]]]
    assert str(path) in read.notes[0]


def test_a_table_next_to_the_images_names_the_colours(data, tmp_path):
    (tmp_path / "labelmap.txt").write_text("sky:9,9,9::\nroad:200,0,0::\ncar:0,0,7::\n")
    assert interpret(data(COLOURS)).classes == ("sky", "road", "car")


def test_names_that_do_not_fit_the_table_are_refused(data, tmp_path):
    (tmp_path / "labelmap.txt").write_text("sky:9,9,9::\nroad:200,0,0::\ncar:0,0,7::\n")
    with raises_user_error("a, b", "sky, road, car", "labelmap.txt"):
        interpret(data(COLOURS), ["a", "b"])


def test_photographs_in_place_of_label_images_are_refused(data):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    with raises_user_error("masks/0.png", "more than 64 colours", "PNG"):
        interpret(data(noise))


def test_values_that_leave_most_classes_empty_are_refused(data):
    with raises_user_error("3 values of 0 to 200", "0, 128, 200", "classes.txt", "--colours"):
        interpret(data([[0, 128, 200]]))


def test_a_table_of_values_numbers_the_classes(data, tmp_path):
    (tmp_path / "mine.txt").write_text("0, ground\n128, road\n200, car\n")
    assert labels_of(interpret(data([[0, 128, 200, 255]]), colours=tmp_path / "mine.txt")) == [[[0, 1, 2, 255]]]


# The classes of a trained model


def test_classes_are_renumbered_as_a_model_numbers_them(data):
    read = with_classes_of(interpret(data([[0, 1, 2, 255]], names=["road", "car", "cow"])), ["car", "sky", "road"])
    assert read.classes == ("car", "sky", "road")
    assert labels_of(read) == [[[2, 0, 255, 255]]]
    assert "cow" in read.notes[-1]


def test_numbered_classes_keep_their_numbers(data):
    read = with_classes_of(interpret(data([[0, 1]])), ["car", "sky", "road"])
    assert read.classes == ("car", "sky", "road")
    assert read.read_label is None


def test_data_without_any_class_of_the_model_is_refused(data):
    with raises_user_error("a, b", "car, sky"):
        with_classes_of(interpret(data([[0, 1]], names=["a", "b"])), ["car", "sky"])
