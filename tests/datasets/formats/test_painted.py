"""Objects with masks are read as label maps."""

import numpy as np
import pytest
from pycocotools import mask as coco

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.meaning import interpret
from xcit_dense.datasets.formats.objects import ObjectData
from xcit_dense.datasets.formats.painted import paint


def rectangle(left, top, width, height):
    return [left, top, left + width, top, left + width, top + height, left, top + height]


def annotation(category, *box, segmentation=None):
    polygons = [rectangle(*box)] if segmentation is None else segmentation
    return {"id": 1, "image_id": 7, "category_id": category, "bbox": list(box), "segmentation": polygons, "iscrowd": 0}


@pytest.fixture
def objects(tmp_path):
    """Makes a data set of one image of 8 x 6 pixels with the given objects."""

    def make(*annotations, names=("cat", "dog"), **splits):
        content = {
            "images": [{"id": 7, "file_name": "a.jpg", "width": 8, "height": 6}],
            "annotations": list(annotations),
            "categories": [{"id": 3 + number, "name": name} for number, name in enumerate(names)],
        }
        contents = {"train": content, **splits}
        reads = {split: lambda each=each: each for split, each in contents.items()}
        return ObjectData("COCO", tmp_path, reads)

    return make


def label_of(data):
    return data.read_label(data.splits["train"][0])


def test_smaller_objects_are_on_top_whatever_their_order(objects):
    expected = np.zeros((6, 8), int)
    expected[0:6, 0:6] = 1
    expected[2:4, 2:4] = 2
    large, small = annotation(3, 0, 0, 6, 6), annotation(4, 2, 2, 2, 2)
    for order in ((large, small), (small, large)):
        data = paint(objects(*order))
        assert data.classes == ("background", "cat", "dog")
        assert label_of(data).tolist() == expected.tolist()


def test_run_length_codes_are_painted(objects):
    mask = np.zeros((6, 8), np.uint8, order="F")
    mask[1:3, 4:7] = 1
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[-1], mask.ravel("F"), [-1]])))).tolist()
    compressed = coco.encode(mask)
    for code in (
        {"size": [6, 8], "counts": counts},
        compressed,
        {**compressed, "counts": compressed["counts"].decode()},
    ):
        data = paint(objects(annotation(4, 4, 1, 3, 2, segmentation=code)))
        assert label_of(data).tolist() == (2 * mask).tolist()


def test_parts_of_an_object_are_painted_together(objects):
    parts = [rectangle(0, 0, 2, 2), rectangle(5, 3, 2, 2)]
    label = label_of(paint(objects(annotation(3, 0, 0, 7, 5, segmentation=parts))))
    assert label[0, 0] == label[3, 5] == 1
    assert label.sum() == 8


def test_objects_with_a_box_and_no_mask_are_ignored(objects):
    data = paint(objects(annotation(3, 0, 0, 4, 4), annotation(4, 2, 2, 4, 3, segmentation=[])))
    label = label_of(data)
    assert label[0, 0] == label[2, 2] == 1
    assert label[4, 5] == 255
    assert "1 of 2 objects have a box and no mask" in data.notes[-1]


def test_a_category_background_is_the_background(objects):
    data = paint(objects(annotation(3, 0, 0, 8, 6), annotation(4, 2, 2, 2, 2), names=("Background", "dog")))
    assert data.classes == ("background", "dog")
    assert sorted(set(label_of(data).ravel())) == [0, 1]


def test_named_categories_are_kept_and_others_become_background(objects):
    data = interpret(paint(objects(annotation(3, 0, 0, 6, 6), annotation(4, 2, 2, 2, 2))), ["dog"])
    assert data.classes == ("background", "dog")
    assert label_of(data).sum() == 4
    with raises_user_error("cow", "background, cat, dog"):
        interpret(paint(objects(annotation(3, 0, 0, 6, 6))), ["cow"])


def test_objects_without_masks_are_refused_with_a_config_that_fits(objects):
    with raises_user_error("boxes and no masks", "mask_rcnn_xcit_s12_1x"):
        paint(objects(annotation(3, 0, 0, 6, 6, segmentation=[])))


def test_splits_with_other_categories_are_refused(objects):
    other = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cow"}]}
    with raises_user_error("'cow'", "'val'", "cat, dog"):
        paint(objects(annotation(3, 0, 0, 6, 6), val=other))
