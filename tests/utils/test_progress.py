"""Progress of a loop: a bar in a terminal, lines otherwise, nothing for a short loop."""

import io
import re
import sys

import pytest

from xcit_dense.utils.progress import track, tracked


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


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard error a terminal when called."""

    def make():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return make


def test_a_file_gets_periodic_lines_with_rate_and_time_left(clock, capsys):
    with track("pictures", 3600) as count:
        for _ in range(60):
            clock(0.5)
            count()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "21 of 3600 pictures, 2.0 a second, 0:29:50 left"
    assert lines[-1] == "60 of 3600 pictures in 0:00:30, 2.0 a second"
    assert len(lines) == 3


def test_a_loop_may_be_longer_than_announced(clock, capsys):
    """The header of a video may contain a wrong number of frames."""
    with track("pictures", 1) as count:
        for _ in range(3):
            clock(11)
            count()
    assert "3 of 1 pictures, 0.1 a second, 0:00:00 left" in capsys.readouterr().err


def test_tracked_yields_the_items_and_counts_each_after_its_use(clock, capsys):
    seen = []
    for item in tracked("pictures", ["a", "b", "c"]):
        clock(11)
        seen.append(item)
    assert seen == ["a", "b", "c"]
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["1 of 3", "2 of 3", "3 of 3", "3 of 3"]


def test_a_terminal_gets_a_bar_with_rate_and_time_left(clock, terminal):
    pytest.importorskip("rich", reason="rich is not installed")
    screen = terminal()
    for _ in tracked("pictures", range(4)):
        clock(1)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()[-1]
    assert re.fullmatch(r"pictures +━+ +4/4 +[\d.]+ it/s +0:00:00 *", last)
    assert "\x1b[?25h" in screen.getvalue().rpartition("\x1b[?25l")[2], "the cursor is back"


def test_an_error_in_the_loop_ends_the_bar(clock, terminal):
    pytest.importorskip("rich", reason="rich is not installed")
    screen = terminal()

    def fail():
        for _ in tracked("pictures", range(4)):
            clock(3)
            if "pictures" in screen.getvalue():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sys.stderr is screen
    assert screen.getvalue().endswith("\x1b[?25h")


def test_a_terminal_without_rich_gets_lines(clock, terminal, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    screen = terminal()
    for _ in tracked("pictures", range(4)):
        clock(1)
    assert screen.getvalue() == "4 of 4 pictures in 0:00:04, 1.0 a second\n"


@pytest.mark.parametrize("items", [0, 3])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_short_loop_shows_nothing(terminal, capsys, items, is_terminal):
    screen = terminal() if is_terminal else None
    assert len(list(tracked("pictures", range(items)))) == items
    assert (screen.getvalue() if screen else capsys.readouterr().err) == ""


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_only_rank_zero_shows_progress(clock, monkeypatch, capsys, variable):
    for rank, lines in (("1", 0), ("0", 1)):
        monkeypatch.setenv(variable, rank)
        for _ in tracked("pictures", "ab"):
            clock(4)
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_the_rank_of_torchrun_overrides_the_rank_of_slurm(clock, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("RANK", "1")
    with track("pictures", 1) as count:
        clock(3)
        count()
    assert capsys.readouterr().err == ""
