"""How a command ends after an error: with a sentence instead of a traceback."""

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
    """Makes a command end with ``error: ...`` and status 1 after an error that its user can fix.

    Such errors are :class:`UserError`, a full disk, a path that the user may not read or write, and operators of mmcv
    that are missing because ``XCIT_DENSE_OPERATORS=0`` is set. After Ctrl-C the
    command ends with status 130, as a shell does. Other errors keep their traceback.

    Args:
        main: The command.

    Returns:
        The command, which now ends the process after such an error.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        raise_exceptions = logging.raiseExceptions
        # On a full disk the logging module would print a traceback for each line, while the work goes on.
        logging.raiseExceptions = False
        try:
            return main(*args, **kwargs)
        except UserError as error:
            # An error of a data loader's worker arrives with the worker's traceback in its message.
            sys.exit(f"error: {str(error).rstrip().rpartition(f'{UserError.__module__}.UserError: ')[2]}")
        except ModuleNotFoundError as error:
            if error.name == "mmcv._ext" and os.environ.get("XCIT_DENSE_OPERATORS") == "0":
                sys.exit(
                    "error: XCIT_DENSE_OPERATORS=0 switches the stand-in for mmcv's operators off, and this mmcv has "
                    "no compiled operators; unset XCIT_DENSE_OPERATORS, or install a compiled mmcv."
                )
            raise
        except BrokenPipeError:  # the reader of the output has ended, as `head` does
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
        finally:
            logging.raiseExceptions = raise_exceptions

    return wrapped
