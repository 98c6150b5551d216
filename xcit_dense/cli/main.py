"""Looks things up: python -m xcit_dense zoo | doctor | config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from xcit_dense import __version__
from xcit_dense.cli.exit import exit_with_sentence
from xcit_dense.errors import INSTALL_MM, MissingLibraryError
from xcit_dense.utils.tables import show_table
from xcit_dense.variants import VARIANTS
from xcit_dense.weights.zoo import SCHEME, search_weights


@exit_with_sentence
def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line and runs one of the sub-commands.

    Args:
        argv: The command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m xcit_dense", description="Look things up about xcit_dense.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    zoo = commands.add_parser("zoo", help="variants and published weights, with the authors' figures")
    zoo.add_argument(
        "words", nargs="*", metavar="WORD", help="only those that have each word: small, p8, dist, coco, upernet, ..."
    )
    zoo.set_defaults(run=lambda args: show_zoo(args.words))

    doctor = commands.add_parser("doctor", help="what is installed, what works, and the command that mends the rest")
    doctor.set_defaults(run=lambda _: show_doctor())

    config = commands.add_parser("config", help="print a config in full, and check its backbone")
    config.add_argument("path", metavar="PATH", help="config file, for detection or segmentation")
    config.add_argument("--data-root", metavar="DIR", help="data directory, in place of the config's")
    config.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="values that replace the config's"
    )
    config.set_defaults(run=lambda args: show_config(args.path, args.cfg_options, args.data_root))

    args = parser.parse_args(argv)
    args.run(args)


def show_zoo(words: Sequence[str] = ()) -> None:
    """Prints the published weights that have each of some words, and their variants.

    Args:
        words: As for :func:`xcit_dense.weights.zoo.search_weights`.

    Raises:
        UserError: A word is unknown, or nothing has all of them.
    """
    found = search_weights(words)
    variants = {weights.variant: VARIANTS[weights.variant] for weights in found}
    rows = [
        [name, *map(str, (one.embed_dim, one.depth, one.num_heads, one.patch_size))]
        for name, one in VARIANTS.items()
        if name in variants
    ]
    show_table("Variants: XCiT(NAME)", ["name", "channels", "blocks", "heads", "patch"], rows)
    rows = [
        [
            one.name,
            one.task,
            ", ".join(f"{name} {value}" for name, value in one.metrics.items()),
            one.config or "",
        ]
        for one in found
    ]
    columns = ["name", "task", "figures, %", "config"]
    show_table(
        f"Weights, with their authors' figures: XCiT.from_pretrained(NAME), or {SCHEME}NAME in configs and tools",
        columns,
        rows,
    )


def show_doctor() -> None:
    """Prints what is installed, what works, and what mends the rest; ends with status 1 if something is broken."""
    from xcit_dense.cli.doctor import Environment, abilities, examine

    findings = examine(Environment.here())
    rows = [[finding.state, finding.part, finding.found] for finding in findings]
    show_table("What is here", ["state", "part", "found"], rows)
    show_table(
        "What works",
        ["works", "what"],
        [["yes" if works else "no", what] for what, works in abilities(findings).items()],
    )
    remedies: dict[str, list[str]] = {}
    for finding in findings:
        if finding.remedy:
            remedies.setdefault(finding.remedy, []).append(finding.part)
    if remedies:
        print("To mend what is broken, or to have what is missing:")
        for remedy, parts in remedies.items():
            print(f"  {', '.join(parts)}:\n    {remedy}")
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)


def show_config(path: str, options: Sequence[str] = (), data_root: str | None = None) -> None:
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
    from xcit_dense.mm.config.checks import check_config
    from xcit_dense.mm.config.load import OptionAction, load_config

    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=OptionAction, default={})
    values = parser.parse_args(["--cfg-options", *options] if options else []).cfg_options
    config = load_config(path, values, data_root)
    print(config.pretty_text.rstrip(), flush=True)
    check_config(config, loaders=())


if __name__ == "__main__":
    main()
