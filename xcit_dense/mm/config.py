"""Configs for a run: read, pointed at data, and checked before anything is written."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import cuda, device

from ..backbone import XCiT
from ..checkpoint import about, find, read_weights, translate
from ..errors import INSTALL_MM, MissingLibraryError, UserError
from .checkpoint import is_first_here

_KEY = b'"categories"'
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load_config(path: str | Path, options: dict[str, Any] | None = None, data_root: str | None = None) -> Config:
    """Reads a config and applies what the command line says.

    Args:
        path: The config's file.
        options: Values by dotted key, which win over the file's.
        data_root: Directory that every data set and evaluator is to use instead of the file's.

    Returns:
        The whole config.

    Raises:
        UserError: No such file, a file that cannot be read, or no data set with a root to replace.
    """
    if not Path(path).is_file():
        raise UserError(f"No config at {path}; those of xcit_dense are in its directory configs/.")
    try:
        config = Config.fromfile(path)
    except (ImportError, SyntaxError) as error:
        raise UserError(f"The config {path} cannot be read: {error}; mend it, or install what it imports.") from error
    if data_root is not None:
        _set_data_root(config, data_root)
    if options:
        config.merge_from_dict(options)
    return config


def check_config(config: Config, loaders: tuple[str, ...] = _LOADERS) -> None:
    """Checks what can be checked before a run writes anything: backbone, widths that must agree, weights, data.

    Args:
        config: A whole config.
        loaders: The data loaders that the run will use; with that of training, the weights to start from are checked.

    Raises:
        UserError: Something is wrong; the message says what to write instead.
    """
    _check_launcher(config)
    _check_backbone(config, pretrained="train_dataloader" in loaders)
    for loader in loaders:
        for dataset in _datasets(config.get(loader)):
            _check_dataset(dataset)


def _set_data_root(config: Config, data_root: str) -> None:
    """Replaces each data set's root by ``data_root``, and the old root at the start of evaluators' paths."""
    datasets = [dataset for loader in _LOADERS for dataset in _datasets(config.get(loader))]
    if not all("data_root" in dataset for dataset in datasets):
        raise UserError(
            "--data-root replaces each data set's data_root, but one has none; write data_root = '...' there."
        )
    old_roots = {dataset.data_root or "" for dataset in datasets}
    for dataset in datasets:
        dataset.data_root = data_root
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = config.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            path = evaluator.get("ann_file")
            for old in old_roots if path else ():
                if Path(path).is_relative_to(old):
                    evaluator.ann_file = str(Path(data_root, Path(path).relative_to(old)))


def _datasets(node: Any) -> Iterator[Any]:
    """The data sets below a data loader's config, through wrappers and concatenations."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _datasets(item)
    elif isinstance(node, dict):
        if "data_prefix" in node or "ann_file" in node:
            yield node
        else:
            yield from _datasets(node.get("dataset") or node.get("datasets"))


def _check_launcher(config: Config) -> None:
    backend = config.get("env_cfg", {}).get("dist_cfg", {}).get("backend", "nccl")
    if config.get("launcher", "none") != "none" and backend == "nccl" and not cuda.is_available():
        raise UserError(
            f"--launcher {config.launcher} with the backend 'nccl' needs CUDA, which this machine has not; write "
            "--launcher none, or --cfg-options env_cfg.dist_cfg.backend=gloo."
        )


def _check_backbone(config: Config, pretrained: bool) -> None:
    scope = config.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")
    if find_spec(scope) is None:
        raise MissingLibraryError(
            f"The config has default_scope = {scope!r}, which is not installed; write {INSTALL_MM}."
        )
    if "model" not in config:
        raise UserError("The config has no model; take one of configs/_base_/models into its _base_.")
    backbone = config.model.get("backbone")
    if backbone is None:  # inside another model, which knows where
        return
    models = import_module(f"{scope}.registry").MODELS
    kind = backbone.get("type")
    with DefaultScope.overwrite_default_scope(scope):
        backbone_class = models.get(kind) if isinstance(kind, str) else kind
    if backbone_class is None:
        raise UserError(
            f"The backbone {kind!r} is not registered; write 'XCiT', or add the module that registers it to "
            "custom_imports = dict(imports=[...]) in the config."
        )
    if isinstance(backbone_class, type) and issubclass(backbone_class, XCiT):
        with device("meta"):  # no memory, no time: for the errors alone
            built = XCiT(**{key: value for key, value in backbone.items() if key not in ("type", "init_cfg")})
        _check_widths(config.model, built.embed_dim)
        start = backbone.get("init_cfg")
        # By one process: the others wait for its download when they build the model.
        if pretrained and isinstance(start, dict) and start.get("type") == "Pretrained" and is_first_here():
            path = find(start["checkpoint"])
            weights = read_weights(path)
            with about(path):
                translate(weights, "", built.state_dict())


def _check_widths(model: Any, width: int) -> None:
    """What reads the pyramid must be as wide as the backbone: MM's text configs cannot compute one from the other."""
    # A neck hides the backbone's levels from the heads behind it, and from necks after it.
    if model.get("neck"):
        parts = [("neck", _as_list(model.neck)[0])]
    else:
        parts = [(name, part) for name in ("decode_head", "auxiliary_head") for part in _as_list(model.get(name))]
    for name, part in parts:
        given = part.get("in_channels") if isinstance(part, dict) else None
        if given is None:
            continue
        given = given if isinstance(given, int) else list(given)
        needed = width if isinstance(given, int) else [width] * len(given)
        if given != needed:
            raise UserError(
                f"model.{name}.in_channels is {given}, but each level of this XCiT has {width} channels; write "
                f"model.{name}.in_channels={needed}."
            )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_dataset(dataset: Any) -> None:
    root = Path(dataset.get("data_root") or "")
    if not root.is_dir():
        raise UserError(f"No data directory at {root}; put the data there, or write --data-root DIR.")
    for name, prefix in (dataset.get("data_prefix") or {}).items():
        if prefix and not (root / prefix).is_dir():
            raise UserError(f"No directory at {root / prefix}, where the data set's {name!r} should be.")
    if dataset.get("ann_file"):
        path = root / dataset.ann_file
        if not path.is_file():
            raise UserError(f"No annotation file at {path}; put it there, or write --data-root DIR.")
        if dataset.type == "CocoDataset":
            _check_categories(path, dataset)


def _check_categories(path: Path, dataset: Any) -> None:
    from mmdet.datasets import CocoDataset

    classes = (dataset.get("metainfo") or {}).get("classes") or CocoDataset.METAINFO["classes"]
    present = [category["name"] for category in read_categories(path)]
    # MMDetection numbers the classes in the order of the file, whatever the config's order is.
    if [name for name in present if name in classes] != list(classes):
        raise UserError(
            f"{path} has the categories {', '.join(present)}, but the config the classes {', '.join(classes)}; write "
            "metainfo = dict(classes=...) in the config's data sets, with names of the file in the order of the file."
        )


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Reads the categories of a COCO annotation file without reading the annotations, which can be half a gigabyte.

    Args:
        path: The JSON file.

    Returns:
        Its categories, in the file's order.

    Raises:
        UserError: The file has none.
    """
    complaint = UserError(
        f"{path} has no categories; add a list 'categories' of entries like {{'id': 1, 'name': 'person'}}."
    )
    if path.stat().st_size == 0:
        raise complaint
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Last in COCO's own files. The word may be a value too, say a picture's name.
        start = content.rfind(_KEY)
        while start >= 0 and not re.match(_KEY + rb"\s*:\s*\[", content[start : start + 99]):
            start = content.rfind(_KEY, 0, start)
        if start < 0:
            raise complaint
        opening, size = content.find(b"[", start), 1 << 16
        while True:  # with pieces large enough to hold the whole list
            piece = content[opening : opening + size].decode(errors="replace")
            try:
                categories: list[dict[str, Any]] = json.JSONDecoder().raw_decode(piece)[0]
                break
            except json.JSONDecodeError as error:
                if opening + size >= len(content):
                    raise UserError(f"{path} is not valid JSON: {error}.") from error
            size *= 2
    if not categories or not all(isinstance(category, dict) and "name" in category for category in categories):
        raise complaint
    return categories
