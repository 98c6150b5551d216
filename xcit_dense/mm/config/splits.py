"""Points the data loaders and heads of a config at the splits and classes of other data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from xcit_dense.datasets.formats.splits import Layout, Split
from xcit_dense.mm.config.walk import datasets_in, dicts_in

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def set_splits(config: Config, root: Path, layout: Layout, describe: Callable[[Split], dict[str, Any]]) -> None:
    """Sets the split of each data loader, and removes the validation if the data has no validation split.

    Args:
        config: A complete config, which is changed.
        root: The data directory.
        layout: The splits of the data.
        describe: Returns the entries of a split that a data set's config needs.
    """
    val = layout.splits.get("val", layout.absent_val)
    splits = (layout.splits["train"], val, layout.splits.get("test", val))
    for loader, split in zip(LOADERS, splits):
        for leaf in datasets_in(config.get(loader)):
            for key in ("indices", "ann_file", "data_prefix"):
                leaf.pop(key, None)
            leaf.update(data_root=str(root), **describe(split))
    # The test's settings stay: MM's inferencers read its pipeline, and a test reports that its data is missing.
    if "val" not in layout.splits:
        for key in ("val_dataloader", "val_evaluator", "val_cfg"):
            if key in config:
                config[key] = None


def set_classes(config: Config, classes: list[str], palette: list[tuple[int, int, int]]) -> None:
    """Sets the classes of each data set, and the number of classes of each head.

    Args:
        config: A complete config, which is changed.
        classes: The names of the classes.
        palette: The colours of the classes.
    """
    for loader in LOADERS:
        for leaf in datasets_in(config.get(loader)):
            leaf.metainfo = {"classes": tuple(classes), "palette": palette}
    for name, part in config.model.items():
        if name != "rpn_head":  # a region proposal network has one class, whatever the data has
            for node in dicts_in(part):
                _set_numbers(node, len(classes))


def _set_numbers(head: Any, count: int) -> None:
    """Sets the numbers of classes of a part of a model, if it has any, and the weights of the classes in its loss."""
    if not {"num_classes", "num_things_classes"} & head.keys():
        return
    numbers = {"num_classes": count, "num_things_classes": count, "num_stuff_classes": 0}
    head.update({key: number for key, number in numbers.items() if key in head})
    weights = (head.get("loss_cls") or {}).get("class_weight")
    # A head with queries has a weight for each class and, behind them, one for queries without an object.
    if isinstance(weights, list) and len({*weights[:-1]}) == 1:
        head["loss_cls"]["class_weight"] = [*weights[:1] * count, weights[-1]]
