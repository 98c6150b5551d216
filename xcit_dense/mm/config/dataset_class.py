"""Facts about a data set of a config: from the config, or else from the class that the config names."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from xcit_dense.errors import UserError
from xcit_dense.mm.config.libraries import import_library


def classes_of(config: Config, leaf: Any) -> list[str]:
    """Returns the class names of a data set.

    Args:
        config: The complete config.
        leaf: The data set's config.

    Returns:
        The names, in the order of their numbers.
    """
    return list((leaf.get("metainfo") or {}).get("classes") or default_of(config, leaf, "METAINFO")["classes"])


def default_of(config: Config, leaf: Any, name: str) -> Any:
    """Returns a value from a data set's config, or else the default of the data set's class.

    Args:
        config: The complete config.
        leaf: The data set's config.
        name: The name of the value.

    Returns:
        The value. None if neither has it.

    Raises:
        UserError: The type of the data set is not registered.
    """
    if name in leaf:
        return leaf[name]
    scope = config.default_scope
    with DefaultScope.overwrite_default_scope(scope):
        import_library(scope, "datasets")
        kind = import_module(f"{scope}.registry").DATASETS.get(leaf.type)
    if kind is None:
        raise UserError(
            f"The data set type {leaf.type!r} is not registered; add the module of the type to custom_imports."
        )
    if hasattr(kind, name):
        return getattr(kind, name)
    for each in kind.__mro__:
        argument = inspect.signature(each.__init__).parameters.get(name)
        if argument is not None:
            return argument.default
    return None


def ignores_zero(config: Config, leaf: Any) -> bool:
    """Returns whether 0 in the label maps of a data set marks pixels without a label.

    Args:
        config: The complete config.
        leaf: The data set's config.
    """
    return bool(default_of(config, leaf, "reduce_zero_label"))
