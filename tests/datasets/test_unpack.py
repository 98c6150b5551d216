"""Archives are unpacked once, and never outside their directory."""

import stat
import zipfile

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.datasets.unpack import unpack


def write_zip(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path


def test_files_are_unpacked_once_with_their_size_said(tmp_path, capsys):
    archive = write_zip(tmp_path / "mine.zip", **{"train/a.txt": "a", "train/": "", "b.txt": "bb"})
    root = unpack(archive, tmp_path / "data")
    assert {path.relative_to(root).as_posix() for path in root.rglob("*")} == {"train", "train/a.txt", "b.txt"}
    assert f"Unpacking 2 files, 0.0 MB, from {archive}" in capsys.readouterr().out
    assert unpack(archive, tmp_path / "data") == root
    assert capsys.readouterr().out == ""


def test_separators_of_windows_make_directories(tmp_path):
    archive = write_zip(tmp_path / "mine.zip", **{"train\\a.txt": "a"})
    assert (unpack(archive, tmp_path / "data") / "train/a.txt").read_text() == "a"


@pytest.mark.parametrize("name", ["../a.txt", "/tmp/a.txt", "a/../../b.txt", "..\\a.txt", "C:\\a.txt"])
def test_paths_outside_the_directory_are_refused(tmp_path, name):
    archive = write_zip(tmp_path / "mine.zip", **{"b.txt": "b", name: "a"})
    with raises_user_error("mine.zip", "outside"):
        unpack(archive, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.txt"))


def test_links_are_refused(tmp_path):
    member = zipfile.ZipInfo("link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as file:
        file.writestr(member, "/etc/passwd")
    with raises_user_error("mine.zip", "link"):
        unpack(tmp_path / "mine.zip", tmp_path / "data")


def test_more_than_fits_on_the_disk_is_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "mine.zip", **{"a.txt": "a" * 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 999}))
    with raises_user_error("mine.zip needs", "left"):
        unpack(archive, tmp_path / "data")


@pytest.mark.parametrize("damage", [lambda content: b"not an archive", lambda content: content[:-30]])
def test_a_damaged_archive_is_refused(tmp_path, damage):
    archive = write_zip(tmp_path / "mine.zip", **{"a.txt": "a"})
    archive.write_bytes(damage(archive.read_bytes()))
    with raises_user_error("mine.zip cannot be unpacked"):
        unpack(archive, tmp_path / "data")
