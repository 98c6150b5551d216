"""Progress of a loop, for who waits: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .progress import RateColumn

_PAUSE = 10.0  # seconds between two lines


@contextmanager
def track(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows how far a loop is, its rate and the time left, on standard error; of several processes the first shows.

    Args:
        what: What is counted, as ``'pictures'``.
        total: How many there are.

    Yields:
        A function to call after each.
    """
    if not is_main_process():
        yield lambda: None
    elif sys.stderr.isatty():
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)
    else:
        start = said = time.monotonic()
        done = 0

        def count() -> None:
            nonlocal done, said
            done += 1
            now = time.monotonic()
            if now - said > _PAUSE:
                said = now
                left = max(0.0, (total - done) * (now - start) / done)
                print(
                    f"{done} of {total} {what}, {done / (now - start):.1f} a second, {_clock(left)} left",
                    file=sys.stderr,
                    flush=True,
                )

        yield count
        spent = max(time.monotonic() - start, 1e-3)
        print(f"{done} of {total} {what} in {_clock(spent)}, {done / spent:.1f} a second", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
