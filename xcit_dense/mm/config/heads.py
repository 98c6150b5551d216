"""Compares the number of classes of each head with the classes of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import classes_of, default_of, is_a, type_of
from xcit_dense.mm.config.walk import datasets_in

# Parts of a model with classes of their own: objects, ImageNet's classes, or things and stuff together.
_WITH_OTHER_CLASSES = ("backbone", "neck", "rpn_head", "semantic_head", "reid", "track_head")


def heads_of(model: Any, name: str = "model") -> Iterator[tuple[str, Any]]:
    """Iterates over the heads that predict the classes of the data, also inside other parts and lists.

    Args:
        model: The config of a model, or a part of it.
        name: The name of the part in the config.

    Yields:
        The name of a head in the config, and the config of the head.

    Example:
        >>> model = {"roi_head": {"bbox_head": [{"num_classes": 3}, {"num_classes": 3}]}, "rpn_head": {}}
        >>> [name for name, _ in heads_of(model)]
        ['model.roi_head', 'model.roi_head.bbox_head.0', 'model.roi_head.bbox_head.1']
    """
    if isinstance(model, list | tuple):
        for number, part in enumerate(model):
            yield from heads_of(part, f"{name}.{number}")
    elif isinstance(model, dict):
        if name.rstrip("0123456789.").endswith("head"):
            yield name, model
        for key, part in model.items():
            if key not in _WITH_OTHER_CLASSES:
                yield from heads_of(part, f"{name}.{key}")


def check_heads(config: Config, loaders: tuple[str, ...]) -> None:
    """Checks that each head has as many classes as the data.

    MMDetection and MMSegmentation do not compare them: objects of a class without an output are learned as background.

    Args:
        config: A complete config.
        loaders: The data loaders that the run will use.

    Raises:
        UserError: A head has another number of classes than the data.
    """
    if config.model.get("language_model"):  # the text of a prompt names the classes
        return
    heads = list(heads_of(config.model))
    for loader in loaders:
        for leaf in datasets_in(config.get(loader)):
            wrong = []
            names = classes_of(config, leaf)
            for name, head in heads:
                for key, needed in _count_classes(config, leaf, names).items():
                    given = head[key] if key in head else _default(config, head, key)
                    if given is not None and given != needed:
                        wrong.append((f"{name}.{key}", given, needed))
            if wrong:
                listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                found = ", ".join(f"{name} is {given}" for name, given, _ in wrong)
                remedy = " ".join(f"{name}={needed}" for name, _, needed in wrong)
                raise UserError(
                    f"{found}, but the data of {loader} has {len(names)} classes ({listed}); write --cfg-options "
                    f"{remedy}, or name the classes of the model in metainfo = dict(classes=...) of the data sets."
                )


def _count_classes(config: Config, leaf: Any, names: list[str]) -> dict[str, int]:
    """Returns the number of classes that each argument of a head must have. Empty if the data names no classes."""
    if not names:
        return {}
    if is_a(config, leaf, "CocoPanopticDataset"):
        meta = {**default_of(config, leaf, "METAINFO"), **(leaf.get("metainfo") or {})}
        things, stuff = len(meta.get("thing_classes") or ()), len(meta.get("stuff_classes") or ())
        counts = {"num_things_classes": things, "num_thing_classes": things, "num_stuff_classes": stuff}
        # The heads of objects predict things only.
        return {**counts, "num_classes": things} if things else {}
    if is_a(config, leaf, "CocoDataset"):
        return {"num_classes": len(names), "num_things_classes": len(names), "num_thing_classes": len(names)}
    return {"num_classes": len(names)}


def _default(config: Config, head: Any, key: str) -> int | None:
    """Returns the number of classes of a head whose config does not contain the number."""
    if type_of(config, head, MODELS) is None:
        return None
    value = default_of(config, head, key, MODELS)
    return value if isinstance(value, int) else None
