"""Reads the text of a config without executing it.

MMEngine and the libraries before it write the complete config of a training into each checkpoint, as Python code. A
checkpoint may come from anyone, so the code is parsed and not executed. Only values are read: numbers, texts, lists,
dictionaries and calls of ``dict``.
"""

from __future__ import annotations

import ast
from typing import Any

from xcit_dense.errors import UserError


def read_config_text(text: str) -> dict[str, Any]:
    """Reads the assignments of a config's text.

    Args:
        text: Python code, as ``Config.pretty_text`` of MMEngine writes it.

    Returns:
        The values by name.

    Raises:
        UserError: The text contains something else than assignments of plain values, or is not Python code.

    Example:
        >>> read_config_text("model = dict(type='FPN', scales=(1, -0.5), cfg=dict({'a-b': None}))")
        {'model': {'type': 'FPN', 'scales': (1, -0.5), 'cfg': {'a-b': None}}}
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"the text of its config is not Python code ({error}).") from error
    values: dict[str, Any] = {}
    for statement in statements:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Name) or not isinstance(statement, ast.Assign) or len(statement.targets) > 1:
            raise _refuse(statement)
        values[target.id] = _read(statement.value)
    return values


def _read(node: ast.expr) -> Any:
    """Returns the value of an expression without names, operators and calls other than ``dict``."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _read(node.operand)
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.List):
        return [_read(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_read(item) for item in node.elts)
    if isinstance(node, ast.Dict):
        return _read_dictionary(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return _read_call(node)
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):  # the text of such numbers
        return float(node.id)
    raise _refuse(node)


def _read_dictionary(node: ast.Dict) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in zip(node.keys, node.values):
        if not isinstance(key, ast.Constant):
            raise _refuse(node)
        found[key.value] = _read(value)
    return found


def _read_call(node: ast.Call) -> dict[Any, Any]:
    """Reads ``dict(name=value)`` and ``dict({key: value})``."""
    found: dict[Any, Any] = {}
    for argument in node.args:
        if not isinstance(argument, ast.Dict):
            raise _refuse(node)
        found.update(_read_dictionary(argument))
    for keyword in node.keywords:
        value = _read(keyword.value)
        if keyword.arg is not None:
            found[keyword.arg] = value
        elif isinstance(value, dict):  # dict(**{key: value})
            found.update(value)
        else:
            raise _refuse(node)
    return found


def _refuse(node: ast.AST) -> UserError:
    code = " ".join(ast.unparse(node).split())
    shown = code if len(code) <= 60 else f"{code[:57]}..."
    return UserError(f"its config contains code, {shown!r}, which was not executed; write the config's file before it.")
