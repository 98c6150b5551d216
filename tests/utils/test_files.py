"""Atomic file writes: the target gets all of its content, or keeps its previous content."""

import errno
import os
import shutil
import urllib.error
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from tests.helpers.models import raises_user_error
from xcit_dense.utils.files import atomic_write, visible_files


def test_the_target_appears_when_the_block_ends_and_its_directory_is_created(tmp_path):
    path = tmp_path / "new/deep/a.b.png"
    with atomic_write(path) as part:
        part.write_text("all")
        assert not path.exists()
        assert part.parent == path.parent
        assert part.suffix == ".png"
        assert part.name.startswith(".")
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_the_target_keeps_its_content_until_the_block_ends(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def write_and_fail(path, fail):
    """Writes half of a file, then calls ``fail`` with the path of the unfinished file."""
    with atomic_write(path) as part:
        part.write_text("half")
        fail(part)


def throw(error):
    def fail(part):
        raise error

    return fail


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_previous_content_and_no_other_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_and_fail(path, throw(error))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "File too large"),
        (OSError("encoder error -2 when writing image file"), "encoder error -2"),  # Pillow, on a full disk
    ],
)
def test_a_full_disk_is_an_error_in_one_sentence(tmp_path, error, why):
    path = tmp_path / "a.txt"
    with raises_user_error(f"{path} cannot be written: {why}", "free some space, or name another path."):
        write_and_fail(path, throw(error))
    assert not list(tmp_path.iterdir())


def test_an_error_that_names_the_unfinished_file_is_an_error_of_writing(tmp_path):
    path = tmp_path / "a.txt"
    with raises_user_error(f"{path} cannot be written"), atomic_write(path) as part:
        part.mkdir()
        part.write_text("a directory has this name")


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (lambda part: Path("missing.txt").read_text(), FileNotFoundError),
        (lambda part: shutil.copyfile("missing.txt", part), FileNotFoundError),
        (lambda part: os.listdir(b"missing"), FileNotFoundError),  # noqa: PTH208
        (lambda part: Image.open(part), UnidentifiedImageError),
        (throw(urllib.error.URLError("no network")), urllib.error.URLError),
        (throw(ConnectionResetError(errno.ECONNRESET, "reset")), ConnectionResetError),
        (throw(OSError(errno.ENOSPC, "full", "elsewhere.txt")), OSError),
    ],
    ids=["open", "copy", "bytes", "image", "url", "network", "another full disk"],
)
def test_an_error_of_another_file_propagates_unchanged(tmp_path, fail, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_and_fail(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/a.txt", "directory"])
def test_an_impossible_target_is_an_error_in_one_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with raises_user_error(tmp_path / name, "cannot be written"), atomic_write(tmp_path / name) as part:
        part.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_hidden_files_and_directories_are_passed_over_and_links_are_followed(tmp_path):
    for name in ("a/b.jpg", "a/._b.jpg", "a/.ipynb_checkpoints/b.jpg", "elsewhere/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/first").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/second").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/first/cycle").symlink_to(tmp_path / "a")
    found = [path.relative_to(tmp_path / "a").as_posix() for path in visible_files(tmp_path / "a")]
    assert found == ["b.jpg", "first/c.jpg", "second/c.jpg"]
