"""Small drawings of large images."""

import numpy as np
from PIL import Image

from tests.helpers.rasters import noise
from xcit_dense.rasters.array import ArraySource
from xcit_dense.rasters.objects import MapObject
from xcit_dense.rasters.preview import LONGEST, preview_labels, preview_objects, read_preview

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_label_map_is_drawn_over_the_reduced_image(tmp_path):
    labels = np.zeros((1500, 3000), np.uint8)
    labels[:, 1500:] = 1
    source = ArraySource(np.full((1500, 3000, 3), 128, np.uint8))
    preview_labels(tmp_path / "a.jpg", source, labels, classes=["a", "b"], palette=[RED, BLUE])
    drawing = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    assert drawing.shape[0] == 512
    assert drawing.shape[1] > LONGEST  # the legend is to the right
    left, right = drawing[100, 100], drawing[100, 900]
    assert left[0] > left[2] + 50
    assert right[2] > right[0] + 50


def test_masks_are_filled_and_boxes_are_outlines(tmp_path):
    objects = [
        MapObject((0, 0, 1000, 1000), 0, 1, np.ones((1000, 1000), bool)),
        MapObject((1100, 1100, 1900, 1900), 1, 1),
    ]
    source = ArraySource(np.zeros((2048, 2048, 3), np.uint8))
    preview_objects(tmp_path / "a.jpg", source, objects, classes=["a", "b"], palette=[RED, BLUE])
    drawing = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    assert drawing.shape == (1024, 1024, 3)
    assert drawing[250, 250, 0] > 100
    assert drawing[750, 550:552, 2].max() > 150
    assert drawing[750, 750].max() < 20


def test_bands_of_any_type_are_stretched_and_colours_are_kept():
    assert read_preview(ArraySource(noise(64, 64, 5))).max() == 255
    assert read_preview(ArraySource(noise(64, 64, 5)), [4]).shape == (64, 64, 3)
    colours = noise(64, 64, 3, "uint8", 100)
    np.testing.assert_array_equal(read_preview(ArraySource(colours)), colours)
