"""Progress of a loop: a bar in a terminal, lines elsewhere."""

import io
import re
import sys

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from xcit_dense.mm.track import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_a_file_gets_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    with track("pictures", 3600) as count:
        for _ in range(60):
            clock(0.5)
            count()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "21 of 3600 pictures, 2.0 a second, 0:29:50 left"
    assert lines[-1] == "60 of 3600 pictures in 0:00:30, 2.0 a second"
    assert len(lines) == 3


def test_more_than_there_should_be_is_no_error(clock, capsys):
    """A video may have more frames than it says."""
    with track("pictures", 1) as count:
        for _ in range(3):
            clock(11)
            count()
    assert "3 of 1 pictures, 0.1 a second, 0:00:00 left" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_with_rate_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal)
    with track("pictures", 4) as count:
        for _ in range(4):
            count()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()[-1]
    assert re.fullmatch(r"pictures +━+ +4/4 +[\d.]+ it/s +0:00:00 *", last)


def test_an_empty_loop_shows_nothing_wrong(capsys):
    with track("pictures", 0):
        pass
    assert "0 of 0 pictures" in capsys.readouterr().err


def test_processes_but_the_first_are_silent(monkeypatch, capsys):
    monkeypatch.setattr("xcit_dense.mm.track.is_main_process", lambda: False)
    with track("pictures", 2) as count:
        count()
    assert capsys.readouterr() == ("", "")
