"""The command ``xcit-dense`` and its subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from xcit_dense import __version__
from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.errors import UserError, did_you_mean

_NAMES = (
    "train",
    "test",
    "predict",
    "browse",
    "visualize",
    "benchmark",
    "publish",
    "export",
    "convert",
    "convert-data",
    "chips",
    "shapes",
    "zoo",
    "doctor",
    "config",
)
COMMANDS = {name: import_module(f"xcit_dense.cli.{name.replace('-', '_')}") for name in _NAMES}
"""The module of each subcommand, in the order of ``xcit-dense --help``."""


@exit_with_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and runs a subcommand.

    Args:
        argv: The arguments; by default those of the process.

    Raises:
        SystemExit: The command line is invalid, or the subcommand fails.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise UserError(did_you_mean("subcommand", argv[0], COMMANDS))
    parser = argparse.ArgumentParser(prog="xcit-dense", description="XCiT for dense prediction.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {}
    for name, module in COMMANDS.items():
        parsers[name] = commands.add_parser(name, help=module.SUMMARY, **_format(module))
        module.add_arguments(parsers[name])
    args, rest = parser.parse_known_args(argv)
    _take_rest(parsers[args.command], args, rest)
    COMMANDS[args.command].run(args)


@exit_with_sentence
def run_tool(command: str, argv: Sequence[str] | None = None) -> None:
    """Runs a subcommand as a file in ``tools/`` does.

    Args:
        command: The name of the subcommand.
        argv: The arguments; by default those of the process.
    """
    module = COMMANDS[command]
    parser = argparse.ArgumentParser(**_format(module))
    module.add_arguments(parser)
    args, rest = parser.parse_known_args(argv)
    _take_rest(parser, args, rest)
    module.run(args)


def _format(module: ModuleType) -> dict[str, Any]:
    return {"description": module.__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}


def _take_rest(parser: argparse.ArgumentParser, args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Adds arguments that argparse did not assign.

    argparse ends a list of positional arguments at the first option, so in ``test CONFIG --device cpu WEIGHTS`` the
    weights are left over.
    """
    if not rest:
        return
    if "words" not in args or any(word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.words.extend(rest)
