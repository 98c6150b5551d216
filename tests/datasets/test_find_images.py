"""Images are found by their names, if exactly one image fits."""

import pytest

from xcit_dense.datasets.find_images import ImageFinder


@pytest.fixture
def find(tmp_path):
    """Makes files below a root, and finds a name whose images should be in the directory ``images``."""

    def make(*files, excluded=()):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        root = tmp_path
        return ImageFinder(root / "images", [root / "images", root], [root / each for each in excluded])

    return make


@pytest.mark.parametrize(
    ("files", "name", "found"),
    [
        (["images/a.jpg"], "a.jpg", "a.jpg"),
        (["images/deep/a.jpg"], "deep/a.jpg", "deep/a.jpg"),
        (["images/deep/a.jpg"], "deep\\a.jpg", "deep/a.jpg"),
        (["images/a\\b.jpg"], "a\\b.jpg", "a\\b.jpg"),
        (["images/deep/a.jpg"], "a.jpg", "deep/a.jpg"),
        (["images/deep/a.jpg"], "other/a.jpg", "deep/a.jpg"),
        (["images/a.jpg"], "/home/someone/a.jpg", "a.jpg"),
        (["images/a.jpg"], "C:\\data\\a.jpg", "a.jpg"),
        (["images/one/a.jpg", "images/two/a.jpg"], "two/a.jpg", "two/a.jpg"),
        (["images/x/one/a.jpg", "images/x/two/a.jpg"], "y/two/a.jpg", "x/two/a.jpg"),
        (["images/one/a.jpg", "images/two/a.jpg"], "a.jpg", None),
        (["images/one/a.jpg", "images/two/a.jpg"], "three/a.jpg", None),
        (["images/.hidden/a.jpg", "images/._a.jpg"], "a.jpg", None),
        (["images/b.jpg"], "a.jpg", None),
        (["images/b.jpg"], "", None),
        (["images/b.jpg"], "x" * 5000, None),
        (["images/b.jpg"], "\0", None),
    ],
)
def test_one_image_that_fits_is_found(find, files, name, found):
    assert find(*files)(name) == found


def test_an_image_outside_the_directory_of_the_images_has_an_absolute_path(find, tmp_path):
    assert find("images/b.jpg", "more/a.jpg")("a.jpg") == str(tmp_path / "more/a.jpg")


def test_an_image_below_the_directory_of_the_images_comes_first(find):
    assert find("images/deep/a.jpg", "more/a.jpg")("a.jpg") == "deep/a.jpg"


def test_images_of_other_splits_are_not_found(find):
    assert find("images/b.jpg", "train/a.jpg", excluded=["train"])("a.jpg") is None


def test_linked_directories_are_searched_once(find, tmp_path):
    finder = find("images/b.jpg", "elsewhere/a.jpg", excluded=["elsewhere/other"])
    (tmp_path / "images/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "images/loop").symlink_to(tmp_path / "images", target_is_directory=True)
    assert finder("a.jpg") == "link/a.jpg"
