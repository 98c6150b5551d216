"""Parts of a config, wherever they stand in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def dicts_in(node: Any) -> Iterator[Any]:
    """Every dictionary in a config's part, the part itself included."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from dicts_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from dicts_in(value)


def datasets_in(node: Any) -> Iterator[Any]:
    """The data sets below a data loader's config, through wrappers and concatenations."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from datasets_in(item)
    elif isinstance(node, dict):
        if "data_prefix" in node or "ann_file" in node:
            yield node
        else:
            yield from datasets_in(node.get("dataset") or node.get("datasets"))
