"""Tables on the console: drawn by rich in a terminal, aligned columns otherwise.

rich is an optional dependency, which MMEngine brings. Without rich, terminals also get aligned columns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

_STYLES = {"ok": "green", "yes": "green", "limited": "yellow", "absent": "yellow", "no": "yellow", "broken": "bold red"}
"""The style of a cell by the cell's text."""


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table.

    Args:
        title: The line above the table.
        columns: The headings.
        rows: The cells of each row, one text for each column.

    Example:
        >>> show_table("Fruit", ["name", "colour"], [["apple", "red"], ["banana", "yellow"]])
        Fruit
          name    colour
          ------  ------
          apple   red
          banana  yellow
        <BLANKLINE>
    """
    if not (sys.stdout.isatty() and _draw_with_rich(title, columns, rows)):
        _print_aligned(title, columns, rows)


def _draw_with_rich(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Draws a table if rich is installed. Returns whether the table was drawn."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)
    return True


def _print_aligned(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    rule = ["-" * width for width in widths]
    print(title)
    for row in (columns, rule, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        print("  " + "  ".join(cells).rstrip())
    print()
