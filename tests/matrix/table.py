"""The tables of docs/heads.md, from the recorded families and the exceptions."""

from __future__ import annotations

from pathlib import Path

from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import read_record
from tests.matrix.reasons import NeedsPackage

PAGE = Path(__file__).parents[2] / "docs" / "heads.md"
TITLES = {"mmdet": "MMDetection", "mmseg": "MMSegmentation"}


def render_table(library: str) -> str:
    """Renders the table of the families of a library.

    Args:
        library: ``'mmdet'`` or ``'mmseg'``.

    Returns:
        A sentence with the sums, and a table in Markdown with one line for each family.
    """
    record, exceptions = read_record(library), EXCEPTIONS[library]
    needing = sum(isinstance(reason, NeedsPackage) for reason in exceptions.values())
    works = len(record) - len(exceptions)
    lines = [
        f"Of {len(record)} families of {TITLES[library]}, {works} work on a plain install, {needing} after the install "
        f"of a package, and {len(exceptions) - needing} do not work.",
        "",
        "| family | config | levels (strides) | works |",
        "|---|---|---|---|",
    ]
    for family, entry in sorted(record.items()):
        levels = ", ".join(map(str, entry["levels"])) if entry["levels"] else "-"
        reason = exceptions.get(family)
        config = entry["config"].removesuffix(".py")
        lines.append(f"| {family} | `{config}` | {levels} | {reason.outcome if reason else 'yes'} |")
    return "\n".join(lines) + "\n"


def put_table(page: str, library: str, table: str) -> str:
    """Puts a table into the text of the page, between the two comments of the library.

    Args:
        page: The text of the page.
        library: ``'mmdet'`` or ``'mmseg'``.
        table: The table.

    Returns:
        The text with the table.
    """
    start, end = (f"<!-- {word} of {library}'s table -->\n" for word in ("begin", "end"))
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    assert after or rest.endswith(end), f"docs/heads.md does not have {start!r} and {end!r}"
    return f"{before}{start}\n{table}\n{end}{after}"
