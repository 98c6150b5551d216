"""Files are matched with the names in annotations, and splits with the names of directories."""

from pathlib import Path

import pytest

from xcit_dense.datasets.formats.files import FileIndex, split_of

FILES = ("images/train/1.jpg", "images/val/1.jpg", "images/train/2.png", "other/3.jpg")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/a.jpg", "train"),
        ("Training/a.jpg", "train"),
        ("train2017/a.jpg", "train"),
        ("annotations/instances_val2017.json", "val"),
        ("test/train/a.jpg", "train"),
        ("images/valid-set/a.jpg", "val"),
        ("instances_default.json", "train"),
        ("trains/a.jpg", None),
        ("constrain/a.jpg", None),
        ("train.jpg", None),
        ("images/a.jpg", None),
    ],
)
def test_a_path_names_its_split_by_whole_words(path, split):
    assert split_of(path) == split


@pytest.mark.parametrize(
    ("name", "near", "split", "found"),
    [
        ("2.png", "", None, "images/train/2.png"),
        ("C:\\data\\2.png", "", None, "images/train/2.png"),
        ("2", "", None, "images/train/2.png"),
        ("2.jpg", "", None, "images/train/2.png"),
        ("1.jpg", "", None, None),
        ("val/1.jpg", "", None, "images/val/1.jpg"),
        ("1.jpg", "labels/train", None, "images/train/1.jpg"),
        ("1.jpg", "", "val", "images/val/1.jpg"),
        ("2.png", "", "val", None),
        ("3.jpg", "", "val", "other/3.jpg"),
        ("4.jpg", "", None, None),
    ],
)
def test_the_best_fitting_file_is_found_and_none_if_several_fit_equally(name, near, split, found):
    index = FileIndex(Path("root"), [Path("root", file) for file in FILES])
    assert index.find(name, near, split) == found
