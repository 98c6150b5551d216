"""Files are written whole or not at all."""

import errno
import os

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.utils.files import atomic_write


def test_a_file_appears_when_it_is_whole_and_its_directory_is_made(tmp_path):
    path = tmp_path / "new/deep/a.b.png"
    with atomic_write(path) as part:
        part.write_text("all")
        assert not path.exists()
        assert part.parent == path.parent
        assert part.suffix == ".png"
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_by_the_whole_one(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def write():
        with atomic_write(path) as part:
            part.write_text("half")
            raise error

    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path):
    def write():
        with atomic_write(path) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a.txt"
    with raises_user_error(f"{path} cannot be written: No space left on device; free the place, or name another."):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file/a.txt", "directory"])
def test_a_place_that_is_none_is_said_in_a_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with raises_user_error(tmp_path / name, "cannot be written"), atomic_write(tmp_path / name) as part:
        part.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]
