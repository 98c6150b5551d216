"""Progress of long loops on rank 0: bars in a terminal, periodic lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from xcit_dense.utils.ranks import is_rank_zero

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

T = TypeVar("T")

_DELAY = 2.0  # seconds; a loop that takes less time shows nothing
_BETWEEN_LINES = 10.0  # seconds
_BETWEEN_FRAMES = 0.25  # seconds between two drawings of a bar


@contextmanager
def track(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows how far a loop is, its rate and the time left, on standard error.

    A loop of less than two seconds shows nothing. Of several processes, only rank 0 shows its progress.

    Args:
        what: The things that the loop counts, in the plural, for example ``'images'``.
        total: The number of things.

    Yields:
        A function without arguments. The loop calls the function after each thing.

    Example:
        >>> with track("images", total=2) as count:
        ...     for image in ("a.jpg", "b.jpg"):
        ...         count()
    """
    progress = make_progress(delay=_DELAY)
    progress.add(what, total)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress.update(what, done)

    try:
        yield count
    finally:
        progress.close()


def tracked(what: str, items: Collection[T]) -> Iterator[T]:
    """Iterates over items and shows the progress as :func:`track` does.

    Args:
        what: The plural name of the items.
        items: The items.

    Yields:
        The items.

    Example:
        >>> [name.upper() for name in tracked("names", ["a", "b"])]
        ['A', 'B']
    """
    with track(what, len(items)) as count:
        for item in items:
            yield item
            count()


def make_progress(delay: float = 0.0) -> Bars | Lines:
    """Makes bars if standard error is a terminal and rich is installed, and lines otherwise.

    Args:
        delay: Seconds before the first bar or line appears.
    """
    if is_rank_zero() and sys.stderr.isatty():
        try:
            return Bars(delay)
        except ImportError:  # rich comes with MMEngine, and a user of the backbone may lack MMEngine
            pass
    return Lines(delay, silent=not is_rank_zero())


def make_bar(*more: ProgressColumn, **options: Any) -> Progress:
    """Makes rich's progress bar for standard error: name, counts, rate and time left.

    Args:
        *more: Further columns.
        **options: Arguments of ``rich.progress.Progress``.

    Raises:
        ImportError: rich is not installed.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Iterations per second, or seconds per iteration for slow loops. Empty until the rate is known."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:.1f} it/s" if speed >= 1 else f"{1 / speed:.1f} s/it")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        *more,
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # if standard output is a file, its text must stay in the file
        **options,
    )


class Bars:
    """Progress bars on standard error: name, counts, rate, time left and a note.

    The caller's thread draws the bars. A drawing thread could hold a lock while a data loader forks a worker.

    Args:
        delay: Seconds before the bars appear.

    Raises:
        ImportError: rich is not installed.
    """

    def __init__(self, delay: float = 0.0) -> None:
        from rich.progress import TextColumn

        self._bars = make_bar(TextColumn("{task.fields[note]}"), auto_refresh=False)
        self._tasks: dict[str, Any] = {}
        self._start = time.monotonic()
        self._drawn = 0.0
        self._delay = delay
        if not delay:
            self._bars.start()

    def add(self, name: str, total: int, done: int = 0) -> None:
        """Adds a bar.

        Args:
            name: The name of the loop.
            total: The number of steps of the loop.
            done: The number of steps that are already done.
        """
        self._tasks[name] = self._bars.add_task(name, total=total, completed=done, note="")
        self._draw(force=True)

    def update(self, name: str, done: int, note: Callable[[], str] | None = None) -> None:
        """Moves a bar.

        Args:
            name: The name of the loop. A name without a bar is ignored.
            done: The number of steps that are done.
            note: Makes a text behind the bar. Called only if the bar is drawn now, because a note may wait for the GPU.
        """
        if name not in self._tasks:
            return
        values: dict[str, Any] = {"completed": done}
        is_due = time.monotonic() - self._drawn > _BETWEEN_FRAMES
        if note and is_due:
            values["note"] = note()
        self._bars.update(self._tasks[name], **values)
        self._draw(force=is_due)

    def remove(self, name: str) -> None:
        """Removes a bar.

        Args:
            name: The name of the loop.
        """
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def close(self) -> None:
        """Draws the bars for the last time and gives the terminal back."""
        if self._bars.live.is_started:
            self._bars.stop()
        self._tasks = {}

    def _draw(self, force: bool) -> None:
        now = time.monotonic()
        if not self._bars.live.is_started:
            if now - self._start <= self._delay:
                return
            self._bars.start()
        if force:
            self._bars.refresh()
            self._drawn = now


class Lines:
    """Progress as lines on standard error: one line every ten seconds, and one at the end.

    Args:
        delay: A loop that takes less than this number of seconds prints no line at its end.
        silent: Print nothing.
    """

    def __init__(self, delay: float = 0.0, silent: bool = False) -> None:
        self._delay = delay
        self._silent = silent
        self._loops: dict[str, _Loop] = {}

    def add(self, name: str, total: int, done: int = 0) -> None:
        """Starts to time a loop.

        Args:
            name: The plural name of what the loop counts.
            total: The number of steps of the loop.
            done: The number of steps that are already done.
        """
        self._loops[name] = _Loop(name, total, done)

    def update(self, name: str, done: int, note: Callable[[], str] | None = None) -> None:
        """Prints a line if ten seconds have passed since the last line.

        Args:
            name: The name of the loop.
            done: The number of steps that are done.
            note: Unused; only bars have notes.
        """
        loop = self._loops[name]
        loop.done = done
        now = time.monotonic()
        if now - loop.printed > _BETWEEN_LINES:
            loop.printed = now
            rate = (done - loop.first) / (now - loop.start)
            left = f", {format_seconds(max(0.0, (loop.total - done) / rate))} left" if rate > 0 else ""
            self._print(f"{done} of {loop.total} {name}, {rate:.1f} a second{left}")

    def remove(self, name: str) -> None:
        """Prints the last line of a loop, if the loop was long enough.

        Args:
            name: The name of the loop.
        """
        loop = self._loops.pop(name)
        seconds = time.monotonic() - loop.start
        if seconds > self._delay:
            rate = (loop.done - loop.first) / seconds
            self._print(f"{loop.done} of {loop.total} {name} in {format_seconds(seconds)}, {rate:.1f} a second")

    def close(self) -> None:
        """Prints the last lines of all loops."""
        for name in list(self._loops):
            self.remove(name)

    def _print(self, line: str) -> None:
        if not self._silent:
            print(line, file=sys.stderr, flush=True)


class _Loop:
    """The state of a loop whose progress is printed as lines."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self.name, self.total = name, total
        self.first = self.done = done
        self.start = self.printed = time.monotonic()


def format_seconds(seconds: float) -> str:
    """Formats a duration.

    Args:
        seconds: The duration in seconds, rounded to whole seconds.

    Example:
        >>> format_seconds(3723.4)
        '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
