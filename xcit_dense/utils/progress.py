"""Progress, for who waits: a bar in a terminal, lines elsewhere; of a run's processes the first shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from xcit_dense.utils.ranks import is_rank_zero

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

T = TypeVar("T")

_MOMENT = 2.0  # seconds; of what takes less nothing is shown
_PAUSE = 10.0  # seconds between two lines


def track(what: str, total: int) -> AbstractContextManager[Callable[[], None]]:
    """Shows on standard error how far a loop is, its rate and the time left, if it takes more than a moment.

    Args:
        what: What is counted, as ``'pictures'``.
        total: How many there are.

    Returns:
        A context, which gives a function to call after each.
    """
    if not is_rank_zero():
        return nullcontext(lambda: None)
    if sys.stderr.isatty():
        with suppress(ImportError):
            return _draw(make_bar(), what, total)
    return _say(what, total)


def tracked(what: str, items: Collection[T]) -> Iterator[T]:
    """Goes through items as :func:`track` shows it.

    Args:
        what: As for :func:`track`.
        items: What to go through.

    Yields:
        The items.
    """
    with track(what, len(items)) as count:
        for item in items:
            yield item
            count()


def make_bar(*more: ProgressColumn, **options: Any) -> Progress:
    """Makes rich's progress bar for standard error: what, how far, how fast, and the time left.

    Args:
        *more: Columns to follow these.
        **options: Of ``rich.progress.Progress``.

    Raises:
        ImportError: rich is not installed; it comes with MMEngine.
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
        """Iterations a second, or seconds an iteration where these are more; empty until it is known."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:.1f} it/s" if speed >= 1 else f"{1 / speed:.1f} s/it")

    what = TextColumn("{task.description}")
    columns = (what, BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn(), *more)
    # What goes to a file stays there.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty(), **options)


@contextmanager
def _draw(bar: Progress, what: str, total: int) -> Iterator[Callable[[], None]]:
    task = bar.add_task(what, total=total)
    start = time.monotonic()

    def count() -> None:
        bar.advance(task)
        if not bar.live.is_started and time.monotonic() - start > _MOMENT:
            bar.start()

    try:
        yield count
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def _say(what: str, total: int) -> Iterator[Callable[[], None]]:
    start = said = time.monotonic()
    done = 0

    def count() -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if now - said > _PAUSE:
            said = now
            left = max(0.0, (total - done) * (now - start) / done)
            line = f"{done} of {total} {what}, {done / (now - start):.1f} a second, {_clock(left)} left"
            print(line, file=sys.stderr, flush=True)

    yield count
    spent = time.monotonic() - start
    if spent > _MOMENT:
        line = f"{done} of {total} {what} in {_clock(spent)}, {done / spent:.1f} a second"
        print(line, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
