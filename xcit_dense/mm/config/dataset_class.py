"""Facts about the classes that a config names, and about its data sets: from the config, or else from the class."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, Registry

from xcit_dense.errors import UserError
from xcit_dense.mm.config.libraries import prints_logged


def type_of(config: Config, node: Any, registry: Registry = DATASETS) -> Any:
    """Returns what MMEngine would build from a part of a config.

    The ``type`` may be a name, a name with its library (``'mmdet.CocoDataset'``), a path
    (``'mmdet.datasets.CocoDataset'``) or a class.

    Args:
        config: The complete config.
        node: The part.
        registry: MMEngine's registry of such parts.

    Returns:
        A class, or a function that makes an object. None if the part has no type, or if the type is not registered.
    """
    kind = node.get("type")
    if not isinstance(kind, str):
        return kind
    scope = node.get("_scope_") or config.get("default_scope")
    if scope is not None and find_spec(scope) is None:
        return None
    with prints_logged(), registry.switch_scope_and_registry(scope) as registered:
        return registered.get(kind)


def is_a(config: Config, node: Any, name: str, registry: Registry = DATASETS) -> bool:
    """Returns whether MMEngine would build an object of a class from a part of a config.

    Use this function instead of a comparison of ``type`` with a string.

    Args:
        config: The complete config.
        node: The part.
        name: The name of the class, without its library. An object of a subclass counts too.
        registry: MMEngine's registry of such parts.

    Example:
        >>> from mmengine.registry import VISBACKENDS
        >>> backend = {"type": "mmengine.LocalVisBackend"}
        >>> is_a(Config(), backend, "BaseVisBackend", VISBACKENDS), is_a(Config(), backend, "Hook", VISBACKENDS)
        (True, False)
    """
    kind = type_of(config, node, registry)
    return inspect.isclass(kind) and any(base.__name__ == name for base in kind.__mro__)


def reads_coco(config: Config, leaf: Any) -> bool:
    """Returns whether a data set reads its annotation file as MMDetection's ``CocoDataset`` does.

    Args:
        config: The complete config.
        leaf: The data set's config.
    """
    if not is_a(config, leaf, "CocoDataset") or is_a(config, leaf, "CocoPanopticDataset"):
        return False
    # Subclasses for LVIS and Objects365 number the classes in other ways.
    kind = type_of(config, leaf)
    coco = next(base for base in kind.__mro__ if base.__name__ == "CocoDataset")
    return bool(kind.load_data_list is coco.load_data_list)


def classes_of(config: Config, leaf: Any) -> list[str]:
    """Returns the class names of a data set.

    Args:
        config: The complete config.
        leaf: The data set's config.

    Returns:
        The names, in the order of their numbers. An empty list if neither the config nor the class names any.

    Raises:
        UserError: The classes are a text instead of a list, and the text does not name a file.
    """
    classes = (leaf.get("metainfo") or {}).get("classes") or (default_of(config, leaf, "METAINFO") or {}).get("classes")
    if isinstance(classes, str):  # MMEngine reads the names from the lines of this file
        path = Path(classes)
        if not path.is_file():
            raise UserError(
                f"metainfo has classes={classes!r}, which is neither a list nor a file; write a list of names, for "
                f"example classes=({classes!r},) with a comma for a single class."
            )
        return path.read_text(encoding="utf-8").splitlines()
    return list(classes or ())


def default_of(config: Config, node: Any, name: str, registry: Registry = DATASETS) -> Any:
    """Returns a value from a part of a config, or else the default of the part's class.

    Args:
        config: The complete config.
        node: The part, for example a data set's config.
        name: The name of the value.
        registry: MMEngine's registry of such parts.

    Returns:
        The value. None if neither has it.

    Raises:
        UserError: The type of the part is not registered.
    """
    if name in node:
        return node[name]
    kind = type_of(config, node, registry)
    if kind is None:
        what = "data set type" if registry is DATASETS else "type"
        raise UserError(
            f"The {what} {node.get('type')!r} is not registered; add the module of the type to custom_imports."
        )
    if hasattr(kind, name):
        return getattr(kind, name)
    for each in inspect.getmro(kind) if inspect.isclass(kind) else ():
        argument = inspect.signature(each).parameters.get(name) if "__init__" in vars(each) else None
        if argument is not None:
            return None if argument.default is argument.empty else argument.default
    return None


def ignores_zero(config: Config, leaf: Any) -> bool:
    """Returns whether 0 in the label maps of a data set marks pixels without a label.

    Args:
        config: The complete config.
        leaf: The data set's config.
    """
    return bool(default_of(config, leaf, "reduce_zero_label"))
