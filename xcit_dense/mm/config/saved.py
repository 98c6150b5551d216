"""Configs that files of weights contain: reduced to what prediction and tests need, and checked before they are used.

A file of weights may come from anyone. Its config is read as plain values (:mod:`xcit_dense.weights.config_text`), but
values can cause code to run too: MMEngine imports a module for each unknown ``type``, and mmcv evaluates some texts as
Python. So each ``type`` must be registered, and no other text may be a call or a path of Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

from xcit_dense.errors import INSTALL_MM, MissingLibraryError, UserError
from xcit_dense.mm.config.libraries import prints_logged
from xcit_dense.mm.config.walk import as_list, datasets_in, dicts_in
from xcit_dense.utils.configs import configs_directory
from xcit_dense.weights.read import read_weights
from xcit_dense.weights.saved import read_description, read_model_config, short_name

TASKS = {"mmdet": "detection", "mmseg": "segmentation"}
"""The task of each library."""

_KEPT = (
    *("default_scope", "model", "test_dataloader", "test_evaluator", "test_cfg", "test_pipeline"),
    *("tta_model", "tta_pipeline", "repaired_data", "crowd_as_objects"),
)
"""What prediction and tests read of a config. The shipped config of the run time has the rest."""

_EXPRESSION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_NAMES = ("classes", "metainfo")  # texts that a user chooses freely, and that nothing interprets


def restore_config(path: Path) -> Config:
    """Makes the config of a run from the config in a file of weights, without executing code of the file.

    Args:
        path: A saved model, or the checkpoint of a training.

    Returns:
        A complete config for prediction and tests.

    Raises:
        UserError: The file is damaged or has no config, the config lacks a part, or the config names code.
        MissingLibraryError: The library of the config is not installed.
    """
    given = read_model_config(path)
    if given is None:
        read_weights(path)  # the message for a damaged file
        raise UserError(f"{path} does not contain a config; write the config before it.")
    scope = given.get("default_scope")
    lacking = [name for name in ("model", "test_dataloader") if not isinstance(given.get(name), dict)]
    if scope not in TASKS or lacking:
        raise UserError(
            f"The config in {path} is not one of MMDetection 3 or MMSegmentation 1: it has default_scope={scope!r}"
            f"{''.join(f' and no {name}' for name in lacking)}; write the config's file before it."
        )
    if find_spec(scope) is None:
        raise MissingLibraryError(f"The model in {path} needs {scope}, which is not installed; write {INSTALL_MM}.")
    kept = {name: given[name] for name in _KEPT if given.get(name) is not None}
    description = read_description(path) or {}
    if "classes" in description:
        metainfo = {"classes": tuple(description["classes"]), "palette": description.get("palette")}
        for leaf in datasets_in(kept["test_dataloader"]):
            leaf["metainfo"] = metainfo
    imports = given.get("custom_imports")
    modules = as_list(imports.get("imports")) if isinstance(imports, dict) else []
    for module in modules:
        if isinstance(module, str) and re.fullmatch(r"xcit_dense(\.\w+)+", module):
            import_module(module)
    check_plain(kept, path, scope, [str(module) for module in modules])
    # The file is part of this package, so it may be executed.
    shipped = configs_directory() / "_base_" / f"runtime_{TASKS[scope]}.py"
    runtime = Config.fromfile(shipped, import_custom_modules=False)
    work_dir = str(Path("work_dirs", short_name(path)))
    return Config({**runtime._cfg_dict.to_dict(), **kept, "work_dir": work_dir})


def check_plain(config: Mapping[str, Any], path: Path, scope: str, modules: list[str]) -> None:
    """Refuses a config whose values name code.

    Args:
        config: The values.
        path: The file that contains the config, for messages.
        scope: ``'mmdet'`` or ``'mmseg'``.
        modules: The modules that the config wants to import, for messages.

    Raises:
        UserError: A type is not registered, or a text is a call or the path of a Python object.
    """
    others = [module for module in modules if not module.startswith("xcit_dense.")]
    remedy = "write the config's file before it, if you trust it"
    if others:
        remedy = f"its config imports {', '.join(others)}; {remedy}"
    for key, text in _texts(config):
        if key == "type":
            if text not in _registered(scope):
                raise UserError(f"The config in {path} has the type {text!r}, which is not registered; {remedy}.")
        elif "(" in text or _is_python_path(text):
            raise UserError(f"The config in {path} has {key}={text!r}, which may be code; {remedy}.")


def portable(config: Config) -> dict[str, Any]:
    """Takes what prediction and tests need from a config, without paths of this machine.

    Args:
        config: A complete config.

    Returns:
        Plain values. Relative paths stay. An absolute data directory becomes ``data/NAME``. The classes are left out,
        because a saved model states them apart.
    """
    full = Config(config._cfg_dict.to_dict()).to_dict()
    kept = {name: full[name] for name in _KEPT if full.get(name) is not None}
    kept["custom_imports"] = {"imports": ["xcit_dense.mm"], "allow_failed_imports": False}
    for module in as_list((full.get("custom_imports") or {}).get("imports")):
        if module.startswith("xcit_dense.mm."):
            kept["custom_imports"]["imports"].append(module)
    for node in dicts_in(kept["model"]):
        start = node.get("init_cfg")
        if isinstance(start, dict) and "Pretrained" in str(start.get("type")):
            del node["init_cfg"]  # the weights are in the file
    roots: dict[str, str] = {}
    for leaf in datasets_in(kept["test_dataloader"]):
        leaf.pop("metainfo", None)
        root = leaf.get("data_root") or ""
        leaf["data_root"] = f"data/{Path(root).name}" if Path(root).is_absolute() else root
        roots[root] = leaf["data_root"]
        places = {root: ""}
        if leaf.get("ann_file"):
            leaf["ann_file"] = _portable_path(leaf["ann_file"], places)
        prefixes = leaf.get("data_prefix") or {}
        for name, prefix in prefixes.items():
            prefixes[name] = _portable_path(prefix, places) if prefix else prefix
    for node in dicts_in(kept.get("test_evaluator")):
        for key in ("ann_file", "seg_prefix"):
            if isinstance(node.get(key), str):
                node[key] = _portable_path(node[key], roots)
    return kept


def _portable_path(path: str, places: Mapping[str, str]) -> str:
    """Replaces the directory before a path. An absolute path in no known directory keeps only its name.

    Args:
        path: The path of a file or directory.
        places: The new directory for each known one.
    """
    for old, new in places.items():
        if old and Path(old).is_absolute() and Path(path).is_relative_to(old):
            return str(Path(new, Path(path).relative_to(old)))
    return Path(path).name if Path(path).is_absolute() else path


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Iterates over the texts in values, with their keys. A text in a list has the key of the list."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _texts(name, "a key")
            if name not in _NAMES:
                yield from _texts(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value, key)


def _is_python_path(text: str) -> bool:
    """Whether a text such as ``'os.path.join'`` leads to an installed module. No module is imported."""
    if not _EXPRESSION.fullmatch(text):
        return False
    try:
        spec = find_spec(text.partition(".")[0])
    except (ImportError, ValueError):
        return True
    return spec is not None and spec.origin is not None  # a directory without __init__.py has no origin


@cache
def _registered(scope: str) -> frozenset[str]:
    """The names that a library builds: those in its registries, and those of mmcv's operators."""
    with prints_logged():
        operators = import_module("mmcv.ops")
        for library in ("mmdet", "mmseg"):
            if find_spec(library) is not None:
                import_module(f"{library}.utils").register_all_modules(init_default_scope=False)
                import_module(f"{library}.registry").MODELS.import_from_location()
    names = {*operators.__all__}
    for registry in vars(mmengine.registry).values():
        if isinstance(registry, Registry):
            names.update(_names_of(registry, scope))
    return frozenset(names)


def _names_of(registry: Registry, scope: str) -> Iterator[str]:
    """The names in a registry and in those of the libraries, without and after the name of the library."""
    for name in registry.module_dict:
        yield name
        yield f"{registry.scope}.{name}"
    for child in registry.children.values():
        for name in _names_of(child, scope):
            if "." in name or child.scope == scope:
                yield name
