"""``xcit_dense.train``: the command ``xcit-dense train``, called from Python."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from xcit_dense.cli import train as command
from xcit_dense.errors import UserError, did_you_mean

_OWN = {"data": "data_root", "options": "cfg_options"}  # the options with other names in Python
_HIDDEN = ("help", "words", "local_rank")


def train(config: str | Path, data: str | Path | None = None, **options: Any) -> Path:
    """Trains a detector or a segmentor, as the command ``xcit-dense train`` does, with the same output.

    Args:
        config: A config file, the name of a shipped config such as ``'mask_rcnn_xcit_s12'``, or a work directory with a
            config.
        data: The data: a directory or a file of any format that the command recognises. By default the data that the
            config names. If the data does not have the files that the config names, the model gets the classes of the
            data.
        **options: The options of the command, with ``_`` in place of ``-``; ``xcit-dense train --help`` lists all. For
            example ``batch`` (images per step), ``epochs`` or ``iterations`` (the length), ``work_dir``, ``classes``,
            ``val_fraction``, ``resume=True``, ``amp=True``, ``device='cpu'`` (hides the GPUs from this process).
            ``options`` is a dictionary of values by dotted key, in place of ``--cfg-options``. A list stands for values
            with commas, as in ``bands=[4, 3, 2]``. None leaves an option out.

    Returns:
        The work directory. :func:`xcit_dense.load` loads the model of the training from it.

    Raises:
        UserError: An option does not exist, or the config, the data and the options do not fit each other.
        MissingLibraryError: The MM libraries are not installed.

    Example::

        import xcit_dense

        work_dir = xcit_dense.train("mask_rcnn_xcit_s12", data="data/mine", batch=4, epochs=24)
        model = xcit_dense.load(work_dir)
    """
    args = _parse(str(config), {"data": data, **options})
    with _restored():
        return command.train(args)


def _parse(config: str, values: dict[str, Any]) -> argparse.Namespace:
    """Turns keyword arguments into the parsed arguments of the command."""
    parser = _Parser(prog="xcit_dense.train", add_help=False)
    command.add_arguments(parser)
    actions = {action.dest: action for action in parser._actions if action.dest not in _HIDDEN}
    names = {**{name: name for name in actions if name not in _OWN.values()}, **_OWN}
    words: list[str] = []
    config_options: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            raise UserError(did_you_mean("option of train", name, names))
        action = actions[names[name]]
        if value is None or value is False:
            continue
        if name == "options":
            if not isinstance(value, dict):
                raise UserError(f"options={value!r} is not a dictionary; write values by dotted key.")
            config_options = value
        elif value is True and (action.nargs in (0, "?")):
            words.append(action.option_strings[0])
        elif action.nargs == 0:
            raise UserError(f"{name}={value!r} is not possible; write True or False.")
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            words.append(f"{action.option_strings[0]}={text}")
    args = parser.parse_args([config, *words])
    args.cfg_options = config_options
    return args


@contextmanager
def _restored() -> Iterator[None]:
    """Takes back what a run sets for its process: the rank in the environment, and where warnings go."""
    rank = os.environ.get("LOCAL_RANK")
    with warnings.catch_warnings():
        try:
            yield
        finally:
            if rank is None:
                os.environ.pop("LOCAL_RANK", None)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises an error instead of ending the process."""
        raise UserError(f"xcit_dense.train: {message}.")
