"""Finds parts of a config at any depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def dicts_in(node: Any) -> Iterator[Any]:
    """Iterates over all dictionaries in a part of a config, including the part itself.

    Example:
        >>> [part["type"] for part in dicts_in({"type": "FPN", "norm": [{"type": "BN"}]})]
        ['FPN', 'BN']
    """
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from dicts_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from dicts_in(value)


def datasets_in(node: Any) -> Iterator[Any]:
    """Iterates over the data sets in a data loader's config, also inside wrappers and concatenations.

    Example:
        >>> loader = {"dataset": {"type": "RepeatDataset", "dataset": {"type": "CocoDataset", "ann_file": "a.json"}}}
        >>> [dataset["type"] for dataset in datasets_in(loader)]
        ['CocoDataset']
    """
    if isinstance(node, list | tuple):
        for item in node:
            yield from datasets_in(item)
    elif isinstance(node, dict):
        if "data_prefix" in node or "ann_file" in node:
            yield node
        else:
            yield from datasets_in(node.get("dataset") or node.get("datasets"))


def name_of(part: Any) -> str:
    """Returns the name of a part's class, as the config writes it, without the library before it.

    Args:
        part: A dictionary whose ``type`` is a name or a class. Without a type, the name is empty.

    Example:
        >>> name_of({"type": "mmdet.Resize"}), name_of({"type": dict})
        ('Resize', 'dict')
    """
    kind = part.get("type")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")


def as_list(node: Any) -> list[Any]:
    """Returns the parts that a config gives as a list, or as one part. None means no parts.

    Example:
        >>> as_list({"type": "FPN"}), as_list(None)
        ([{'type': 'FPN'}], [])
    """
    if node is None:
        return []
    return list(node) if isinstance(node, list | tuple) else [node]
