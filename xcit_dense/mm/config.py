"""Configs for a run: read, pointed at data, and checked before anything is written."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..errors import UserError
from ..variants import unknown_name

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load_config(path: str | Path, options: dict[str, Any] | None = None, data_root: str | None = None) -> Config:
    """Reads a config and applies what the command line says.

    Args:
        path: The config's file.
        options: Values by dotted key, which win over the file's.
        data_root: Directory that every data set and evaluator is to use instead of the file's.

    Raises:
        UserError: No such file.
    """
    if not Path(path).is_file():
        raise UserError(f"No config at {path}; those of xcit_dense are in configs/detection and configs/segmentation.")
    config = Config.fromfile(path)
    if data_root is not None:
        _set_data_root(config, data_root)
    if options:
        config.merge_from_dict(options)
    return config


def check_config(config: Config, loaders: tuple[str, ...] = _LOADERS) -> None:
    """Checks what can be checked before a run: the backbone's name, the widths that must agree, and the data.

    Args:
        config: A whole config.
        loaders: The data loaders that the run will use.

    Raises:
        UserError: Something is wrong; the message says what to write instead.
    """
    _check_backbone(config)
    for loader in loaders:
        for dataset in _datasets(config.get(loader)):
            _check_dataset(dataset)


def _set_data_root(config: Config, data_root: str) -> None:
    """Replaces each data set's root by ``data_root``, and the old root at the start of evaluators' paths."""
    old_roots: set[str] = set()
    for loader in _LOADERS:
        for dataset in _datasets(config.get(loader)):
            if "data_root" in dataset:
                old_roots.add(dataset.data_root)
                dataset.data_root = data_root
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = config.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            path = evaluator.get("ann_file")
            for old in old_roots if path else ():
                if path.startswith(old):
                    evaluator.ann_file = str(Path(data_root, path.removeprefix(old).lstrip("/")))


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


def _check_backbone(config: Config) -> None:
    scope = config.get("default_scope", "mmengine")
    if scope not in ("mmdet", "mmseg"):
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")
    models = import_module(f"{scope}.registry").MODELS
    backbone = config.model.backbone
    with DefaultScope.overwrite_default_scope(scope):
        backbone_class = models.get(backbone.type)
    if backbone_class is None:
        raise UserError(
            f"The backbone {backbone.type!r} is not registered; write 'XCiT', or add the module that registers it to "
            "custom_imports = dict(imports=[...]) in the config."
        )


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
    if not set(classes) & set(present):
        raise UserError(
            f"{path} has the categories {', '.join(present)}, none of which is among the config's classes "
            f"({', '.join(classes[:3])} ...); write metainfo = dict(classes=...) in the config's data sets."
        )


def read_categories(path: Path) -> list[dict[str, Any]]:
    """Reads the categories of a COCO annotation file without reading the annotations, which can be half a gigabyte.

    Raises:
        UserError: The file has none.
    """
    complaint = UserError(
        f"{path} has no categories; add a list 'categories' of entries like {{'id': 1, 'name': 'person'}}."
    )
    if path.stat().st_size == 0:
        raise complaint
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.rfind(b'"categories"')
        opening = content.find(b"[", start)
        if start < 0 or opening < 0:
            raise complaint
        closing = content.find(b"]", opening)
        try:
            # Categories of keypoint data hold lists themselves: grow the piece until it is whole.
            while True:
                try:
                    categories: list[dict[str, Any]] = json.loads(content[opening : closing + 1])
                    break
                except json.JSONDecodeError:
                    closing = content.find(b"]", closing + 1)
                    if closing < 0:
                        raise
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not categories:
        raise complaint
    return categories
