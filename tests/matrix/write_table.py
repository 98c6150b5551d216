"""Records the families of the installed libraries, and writes the tables of docs/heads.md.

Run this module after a change of the exceptions or of an MM library: ``python -m tests.matrix.write_table``. The
maintained forks have all families, so use the environment with the forks.
"""

from __future__ import annotations

import json
import sys

from tests.matrix.families import HERE, choose_configs, read_config
from tests.matrix.step import VARIANT
from tests.matrix.table import PAGE, TITLES, put_table, render_table
from xcit_dense.errors import UserError
from xcit_dense.mm.config.swap import replace_backbone
from xcit_dense.mm.config.walk import dicts_in


def find_levels(library: str, name: str) -> list[int] | None:
    """Returns the strides of the levels that an XCiT returns in a config. None if the backbone cannot be replaced."""
    try:
        config = replace_backbone(read_config(library, name), VARIANT)
    except (ImportError, UserError):
        return None
    return next(list(part.out_strides) for part in dicts_in(config.model) if part.get("type") == "XCiT")


def record(library: str) -> None:
    """Writes the record of a library."""
    found = {
        family: {"config": name, "levels": find_levels(library, name)}
        for family, name in choose_configs(library).items()
    }
    lines = (f" {json.dumps(family)}: {json.dumps(found[family])}" for family in sorted(found))
    (HERE / f"{library}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    for library in sys.argv[1:] or TITLES:
        record(library)
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(put_table(page, library, render_table(library)), encoding="utf-8")
