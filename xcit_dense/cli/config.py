"""Prints a config in full and checks its backbone, or copies it to edit it.

Examples:
    config mask_rcnn_xcit_s12              prints
    config mask_rcnn_xcit_s12 --copy .     copies the config, and the files that it inherits from, to ./configs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xcit_dense.cli.options import (
    CONFIG_HELP,
    add_config_options,
    add_data_root,
    add_words,
    read_config_options,
    start_mm,
)
from xcit_dense.cli.positionals import read_config_argument
from xcit_dense.cli.shipped_configs import copy_config
from xcit_dense.errors import INSTALL_MM, MissingLibraryError, UserError

SUMMARY = "print a config in full, or copy it to edit it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""
    add_words(parser, "CONFIG", CONFIG_HELP)
    add_data_root(parser)
    add_config_options(parser)
    parser.add_argument(
        "--copy", type=Path, metavar="DIR", help="copy the config, and the files that it inherits from, to DIR"
    )


def run(args: argparse.Namespace) -> None:
    """Prints or copies the config."""
    path = read_config_argument(args.words).config
    if args.copy is None:
        show_config(path, args.cfg_options, args.data_root)
        return
    if args.cfg_options or args.data_root:
        raise UserError("--copy copies files as they are; leave out --cfg-options and --data-root, and edit the copy.")
    copies = copy_config(path, args.copy)
    print(*copies, sep="\n")
    print(f"\nEdit {copies[0]}, then train: xcit-dense train {copies[0]}")


def show_config(path: Path, options: list[str], data_root: str | None = None) -> None:
    """Prints a config in full, then checks its backbone, for which no data is needed.

    Args:
        path: The config's file.
        options: Values that replace the config's, each ``KEY=VALUE``.
        data_root: Directory that every data set is to use.

    Raises:
        UserError: The config cannot be read, or its backbone is not possible.
        MissingLibraryError: MMEngine is not installed.
    """
    try:
        import mmengine.config  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(f"Configs are read with MMEngine ({error}); write {INSTALL_MM}.") from error
    start_mm()
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import load_config

    config = load_config(path, read_config_options(options), data_root)
    print(config.pretty_text.rstrip(), flush=True)
    check_config(config, loaders=())
