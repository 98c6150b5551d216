"""A quiet console for a run: results and warnings are printed, and everything goes to the log file.

:func:`quiet` changes the handlers of one run's logger, and sends Python's warnings to the logger. Only
:func:`xcit_dense.mm.runtime.launch.make_runner` and the functions of :mod:`xcit_dense.mm.inference` call it; an import
of ``xcit_dense.mm`` changes nothing.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TextIO, TypeVar

from mmengine.logging.logger import FilterDuplicateWarning

from xcit_dense.mm.patches import warnings_to_log
from xcit_dense.utils.ranks import is_rank_zero

F = TypeVar("F", bound=Callable[..., Any])

FALSE_ALARMS = (
    r"faster_coco_eval is not installed",  # an optional evaluator, which no config of xcit_dense uses
    r'"FileClient" will be deprecated',  # MMEngine warns of its own calls
    r'"HardDiskBackend" is the alias',
    r"reduce_zero_label",  # MMSegmentation warns of its own arguments
    r"avg_non_ignore",  # MMSegmentation's own default
    r"The draw is False",  # the images are drawn by DrawImagesHook
    r"The prefix is not set in metric class",
    r"torch\.meshgrid",
    r"torch\.jit",
    r"The model and loaded state dict do not match exactly",  # CheckWeightsHook reports this in one line
    r"__array__ implementation doesn't accept a copy keyword",  # pycocotools with NumPy 2
    r"is deprecated",
    r"will be deprecated",
)
"""Texts of warnings that a user can ignore. The log file contains them; the console does not show them."""

_FALSE_ALARM = re.compile("|".join(FALSE_ALARMS))
_SHOWN = ("Weights: ", "XCiT starts from ", "TokenPyramid starts from ", "CoaT starts from ")
"""Beginnings of messages that xcit_dense logs as information and that a user wants to read at once."""


def say(logger: logging.Logger, text: str) -> None:
    """Logs a text that also appears on the quiet console.

    Args:
        logger: The logger of a run.
        text: The text, with any number of lines.
    """
    logger.info(text, extra={"console": True})


def quiet(logger: logging.Logger) -> None:
    """Makes a logger print only what :func:`say` logs, warnings that are not false alarms, and errors.

    Python's warnings go through the logger too. Other handlers, for example of the log file, get every record. Ranks
    other than 0 print errors only.

    Args:
        logger: MMEngine's logger of a run.
    """
    for handler in list(logger.handlers):
        if type(handler) is logging.StreamHandler:
            logger.handlers[logger.handlers.index(handler)] = ConsoleHandler(handler.level)
    warnings_to_log.install(logger)


@contextlib.contextmanager
def silent(logger: logging.Logger) -> Iterator[None]:
    """Keeps the console free of what the MM libraries log, print and warn of. Files of the logger receive it.

    The block changes the process, so only one thread at a time may be in it.

    Args:
        logger: MMEngine's logger.
    """
    consoles = [handler for handler in logger.handlers if not isinstance(handler, logging.FileHandler)]
    levels = [handler.level for handler in consoles]
    with warnings.catch_warnings(), prints_to_log(logger):
        warnings.simplefilter("ignore")
        try:
            for handler in consoles:
                handler.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for handler, level in zip(consoles, levels):
                handler.setLevel(level)


@contextlib.contextmanager
def prints_to_log(logger: logging.Logger) -> Iterator[None]:
    """Sends printed lines to the log file instead of the console, for code of libraries that prints.

    Args:
        logger: The logger of a run.
    """
    lines = _LoggedLines(logger, sys.stdout)
    with contextlib.redirect_stdout(lines):
        try:
            yield
        finally:
            lines.end()


def logs_prints(logger: logging.Logger, function: F) -> F:
    """Wraps a function so that its printed lines go to the log file.

    Args:
        logger: The logger of a run.
        function: The function.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with prints_to_log(logger):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Prints the records that belong on a quiet console, without time stamps.

    Args:
        level: The lowest level of the records that are printed. Ranks other than 0 print errors only.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        super().__init__(sys.stdout)
        self.setLevel(level if is_rank_zero() else max(level, logging.ERROR))
        self.addFilter(FilterDuplicateWarning())

    @property
    def stream(self) -> TextIO:
        """The current ``sys.stdout``: a progress bar replaces the stream, and so does :func:`prints_to_log`."""
        stream = sys.stdout
        while isinstance(stream, _LoggedLines):
            stream = stream.console
        return stream

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        pass  # the base class sets the stream of its own, which is not used

    def filter(self, record: logging.LogRecord) -> Any:
        """Decides whether a record is printed."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            is_wanted = True
        elif record.levelno >= logging.WARNING:
            is_wanted = not getattr(record, "is_for_developers", False) and not _FALSE_ALARM.search(text)
        else:
            is_wanted = getattr(record, "console", False) or text.startswith(_SHOWN)
        return is_wanted and super().filter(record)

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record as its message, with the level in front of warnings and errors."""
        text = getattr(record, "short", None) or record.getMessage()
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class _LoggedLines(io.TextIOBase):
    """A stream that logs complete lines."""

    def __init__(self, logger: logging.Logger, console: TextIO) -> None:
        self.logger, self.console = logger, console
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.logger.info(line)
        return len(text)

    def end(self) -> None:
        if self._rest:
            self.write("\n")
