"""Prints what is installed, what of it works, and the command that fixes the rest.

The command ends with status 1 if something is broken.
"""

from __future__ import annotations

import argparse
import sys

from xcit_dense.utils.tables import show_table

SUMMARY = "what is installed, what works, and the command that fixes the rest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this subcommand."""


def run(args: argparse.Namespace) -> None:
    """Examines the environment and prints what was found."""
    from xcit_dense.cli.environment import Environment, abilities, examine

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
        print("To fix what is broken, or to install what is missing:")
        for remedy, parts in remedies.items():
            print(f"  {', '.join(parts)}:\n    {remedy}")
    if any(finding.state == "broken" for finding in findings):
        sys.exit(1)
