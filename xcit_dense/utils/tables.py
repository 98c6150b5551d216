"""Tables: drawn by rich in a terminal, where it is installed; plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table.

    Args:
        title: What stands above.
        columns: Headings.
        rows: One text a column.
    """
    if sys.stdout.isatty():
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            pass
        else:
            table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
            Console().print(table)
            return
    widths = [max(map(len, column)) for column in zip(columns, *rows)]
    print(title)
    for row in (columns, ["-" * width for width in widths], *rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()


_STYLES = {"ok": "green", "yes": "green", "limited": "yellow", "absent": "yellow", "no": "yellow", "broken": "bold red"}
