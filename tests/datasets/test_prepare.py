"""Files made from data are made once, complete, and again when the data changes."""

import os

import pytest

from xcit_dense.datasets.prepare import prepare


@pytest.fixture
def made(tmp_path):
    """Copies a source file through ``prepare`` and counts how often it was copied."""
    source = tmp_path / "source"
    source.write_text("one")
    calls = []

    def write(part):
        calls.append(part)
        (part / "copy").write_text(source.read_text())

    def run(settings=(), write=write):
        return prepare(tmp_path / "data", "copies", [source], settings, write)

    run.source, run.calls = source, calls
    return run


def test_unchanged_sources_are_prepared_once(made):
    assert made() == made()
    assert len(made.calls) == 1


def test_changed_sources_replace_the_old_files(made):
    old = made()
    made.source.write_text("three")
    new = made()
    assert (new / "copy").read_text() == "three"
    assert not old.exists()


def test_a_source_of_the_same_size_and_another_time_is_read_again(made):
    made()
    os.utime(made.source, (1, 1))
    made()
    assert len(made.calls) == 2


def test_other_settings_make_another_directory(made):
    assert made(settings={"seed": 0}) != made(settings={"seed": 1})


def test_an_interrupted_preparation_is_repeated_from_the_start(made):
    def fail(part):
        (part / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(write=fail)
    assert [path.name for path in made().iterdir()] == ["copy"]
