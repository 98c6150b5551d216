"""Writes a config that inherits from another config, and contains only what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from keyword import iskeyword
from math import isfinite
from typing import Any

from mmengine.config import Config

from xcit_dense.errors import UserError

_IMPORT = "xcit_dense.mm"
_LINE = 100  # characters of a line, before the name of an argument
_FLAT = 1000  # the depth that asks for one line


def add_import(config: Config) -> None:
    """Lets a config import the module that registers XCiT.

    Args:
        config: A complete config, which is changed.

    Example:
        >>> config = Config()
        >>> add_import(config)
        >>> config.custom_imports
        {'imports': ['xcit_dense.mm'], 'allow_failed_imports': False}
    """
    imports = list((config.get("custom_imports") or {}).get("imports", ()))
    if _IMPORT not in imports:
        imports.append(_IMPORT)
    config.custom_imports = {"imports": imports, "allow_failed_imports": False}


def write_difference(base: str, before: Config, after: Config) -> str:
    """Writes the text of a config that inherits from another config.

    Args:
        base: What the text names as ``_base_``.
        before: The config that ``base`` names.
        after: The config that the text is to give.

    Returns:
        Python code. A dictionary with fewer keys than before has ``_delete_=True``. A list is written in full, because
        MMEngine does not merge lists.

    Raises:
        UserError: A part of the config at the top level is missing in ``after``, or a part that differs is not made of
            texts and numbers. A text cannot express either.

    Example:
        >>> before = Config({"model": {"neck": {"in_channels": [256, 512], "num_outs": 5}}})
        >>> after = Config({"model": {"neck": {"in_channels": [128, 128], "num_outs": 5}}})
        >>> print(write_difference("./other.py", before, after), end="")
        _base_ = "./other.py"
        model = dict(neck=dict(in_channels=[128, 128]))
    """
    old, new = before.to_dict(), after.to_dict()
    missing = sorted(old.keys() - new.keys())
    if missing:
        raise UserError(f"{', '.join(missing)} of the config cannot be removed; set it to None.")
    lines = [f"_base_ = {_quote(base)}"]
    lines += [f"{key} = {_format(value)}" for key, value in _compare(old, new).items()]
    return "\n".join(lines) + "\n"


def _compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries that differ, in the order of ``new``."""
    difference: dict[str, Any] = {}
    for key, value in new.items():
        if key in old and _is_equal(old[key], value):
            continue
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            is_smaller = bool(before.keys() - value.keys())
            difference[key] = {"_delete_": True, **value} if is_smaller else _compare(before, value)
        else:
            difference[key] = value
    return difference


def _is_equal(old: Any, new: Any) -> bool:
    """Compares two parts of configs. A tuple and a list with the same items differ, as for some models."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_is_equal(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return type(old) is type(new) and len(old) == len(new) and all(map(_is_equal, old, new))
    return type(old) is type(new) and bool(old == new)


def _format(value: Any, depth: int = 0) -> str:
    """Formats a value as Python code: on one line if it is short, otherwise with one line for each item."""
    if not isinstance(value, dict | list | tuple):
        return _format_scalar(value)
    before, after = ("dict(", ")") if isinstance(value, dict) else ("[", "]") if isinstance(value, list) else ("(", ")")
    if isinstance(value, dict) and not all(str(key).isidentifier() and not iskeyword(str(key)) for key in value):
        before, after = "{", "}"

    def format_items(inner: int) -> list[str]:
        if not isinstance(value, dict):
            return [_format(item, inner) for item in value]
        order = sorted(value, key=lambda key: (key != "_delete_", key != "type"))  # the type first
        if before == "{":
            return [f"{_format_scalar(key)}: {_format(value[key], inner)}" for key in order]
        return [f"{key}={_format(value[key], inner)}" for key in order]

    flat = ", ".join(format_items(_FLAT))
    line = f"{before}{flat}{',' if isinstance(value, tuple) and len(value) == 1 else ''}{after}"
    if depth >= _FLAT or len(line) + 4 * depth <= _LINE:
        return line
    indent = "    " * (depth + 1)
    return before + "".join(f"\n{indent}{item}," for item in format_items(depth + 1)) + f"\n{'    ' * depth}{after}"


def _format_scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, float) and not isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    raise UserError(f"The config contains {value!r}, which is neither a text nor a number; write the config by hand.")


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)
