"""Pascal VOC's class masks are found as VOC, CVAT and labelme2voc lay them out."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.formats.colours import voc_palette
from xcit_dense.datasets.formats.meaning import interpret
from xcit_dense.datasets.formats.voc_masks import find


@pytest.fixture
def voc(tmp_path):
    """Makes images a, b, c with class masks of a palette, and lists of names."""

    def make(lists=None, masks="SegmentationClass", kind="P"):
        for name in "abc":
            image = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8))
            image.putpalette(np.array(voc_palette(), np.uint8).tobytes())
            for directory, suffix, each in (
                ("JPEGImages", "jpg", image.convert("RGB")),
                (masks, "png", image.convert(kind)),
            ):
                (tmp_path / directory).mkdir(exist_ok=True)
                each.save(tmp_path / directory / f"{name}.{suffix}")
        for split, names in (lists or {}).items():
            path = tmp_path / f"ImageSets/Segmentation/{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{name}\n" for name in names))
        return tmp_path

    return make


def stems(data):
    return {split: [pair.label[-5] for pair in pairs] for split, pairs in data.splits.items()}


def test_lists_give_the_splits(voc):
    data = find(voc({"train": ["c", "a"], "val": ["JPEGImages/b.jpg"]}))
    assert stems(data) == {"train": ["c", "a"], "val": ["b"]}
    assert data.splits["val"][0].image == "JPEGImages/b.jpg"


def test_without_lists_all_images_are_for_training(voc):
    assert stems(find(voc())) == {"train": ["a", "b", "c"]}


@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_a_table_of_cvat_names_the_colours(voc, kind):
    root = voc(kind=kind)
    (root / "labelmap.txt").write_text("# label:color_rgb\nground:0,0,0::\ncat:128,0,0::\ndog:0,128,0::\n")
    data = interpret(find(root))
    assert data.classes == ("ground", "cat", "dog")
    assert data.read_label(data.splits["train"][0]).tolist() == [[0, 1, 2, 255]]


def test_names_of_labelme2voc_are_read(voc):
    root = voc(masks="SegmentationClassPNG")
    (root / "class_names.txt").write_text("__ignore__\n_background_\ncat\ndog\n")
    assert interpret(find(root)).classes == ("_background_", "cat", "dog")


def test_images_without_a_class_mask_are_left_out_and_counted(voc):
    root = voc({"train": ["a", "b", "c"]})
    (root / "SegmentationClass/b.png").unlink()
    data = find(root)
    assert stems(data) == {"train": ["a", "c"]}
    assert data.notes == ("1 images without a class mask are left out.",)


def test_a_list_that_names_a_missing_image_is_refused(voc):
    with raises_user_error("'train'", "ghost", "JPEGImages", "(1 in all"):
        find(voc({"train": ["a", "ghost"]}))


def test_masks_without_images_are_refused(voc):
    root = voc()
    (root / "JPEGImages").rename(root / "other")
    with raises_user_error("SegmentationClass", "JPEGImages does not exist", "Save images"):
        find(root)


def test_other_directories_are_not_class_masks(tmp_path):
    assert find(tmp_path) is None
