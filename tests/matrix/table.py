"""The tables of docs/heads.md, from the recorded families and the exceptions."""

from __future__ import annotations

from pathlib import Path

from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import read_record

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
    works = len(record) - len(exceptions)
    lines = [
        f"{works} of {len(record)} families of {TITLES[library]} work.",
        "",
        "| family | config | levels (strides) | works |",
        "|---|---|---|---|",
    ]
    for family, entry in sorted(record.items()):
        levels = ", ".join(map(str, entry["levels"])) if entry["levels"] else "-"
        reason = exceptions.get(family)
        outcome = f"no: {reason.text}" if reason else "yes"
        lines.append(f"| {family} | `{entry['config'].removesuffix('.py')}` | {levels} | {outcome} |")
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
