"""How a command ends: with a sentence, not with a traceback."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from xcit_dense.errors import UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)

P = ParamSpec("P")
T = TypeVar("T")


def exit_with_sentence(main: Callable[P, T]) -> Callable[P, T]:
    """Makes a command line end with ``error: ...`` and status 1, without a traceback.

    On a :class:`UserError`, and where a disk is full or a path is not for this user. On Ctrl-C it ends with status 130,
    as shells have it.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        logging.raiseExceptions = False  # a log that cannot be written: no traceback a line, while work goes on
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # One raised in a data loader's worker arrives with a traceback in its message.
            sys.exit(f"error: {str(error).rstrip().rpartition(f'{UserError.__module__}.UserError: ')[2]}")
        except BrokenPipeError:  # who reads has enough, as `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            if error.errno in _NO_ROOM:
                name = error.filename or "A file"
                sys.exit(f"error: {name} could not be written: {error.strerror}; make room there.")
            if error.errno in _NO_ACCESS and error.filename:
                sys.exit(f"error: {error.filename}: {error.strerror}; check the path and its rights, or name another.")
            raise
        except KeyboardInterrupt:
            sys.exit(130)

    return wrapped
