"""Names and colours of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from torch import nn

from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import type_of
from xcit_dense.structures import Colour
from xcit_dense.visualization.draw import make_palette


def read_classes(
    dataset_meta: dict[str, Any], dataset: dict[str, Any], scope: str, count: int = 1
) -> tuple[Sequence[str], Sequence[Colour]]:
    """Reads names and colours of the classes from the checkpoint, the config, or the class of the config's data set.

    The first of these three sources that names enough classes is used.

    Args:
        dataset_meta: The ``dataset_meta`` of the checkpoint, or an empty dictionary.
        dataset: The config of a data set.
        scope: ``'mmdet'`` or ``'mmseg'``.
        count: The number of classes of the model. Sources with fewer names are skipped.

    Returns:
        The names, and a colour for each name.

    Raises:
        UserError: No source names enough classes.

    Example:
        >>> read_classes({"classes": ("cat", "dog"), "palette": [(255, 0, 0), (0, 0, 255)]}, {}, "mmdet", count=2)
        (['cat', 'dog'], [(255, 0, 0), (0, 0, 255)])
    """
    known = type_of(Config({"default_scope": scope}), dataset)
    own = _lower(dataset.get("metainfo") or {})
    most: Sequence[str] = []
    for meta in (_lower(dataset_meta), own if own.get("classes") else _lower(getattr(known, "METAINFO", {}))):
        classes = meta.get("classes") or []
        classes = [classes] if isinstance(classes, str) else list(classes)
        if len(classes) >= count:
            palette = meta.get("palette")
            if not isinstance(palette, list | tuple) or len(palette) < len(classes):
                palette = make_palette(len(classes))
            return classes, [(int(red), int(green), int(blue)) for red, green, blue in palette]
        most = max(most, classes, key=len)
    named = f"more than {len(most)} of the model's {count} classes" if most else "the classes"
    raise UserError(
        f"Neither the checkpoint nor the config names {named}; write metainfo = dict(classes=...) in the config's "
        "test_dataloader.dataset."
    )


def count_classes(model: nn.Module) -> int:
    """Returns the largest number of classes of a model's heads, or 1 if no head has such a number.

    Args:
        model: A detector or segmentor.
    """
    heads = (module for name, module in model.named_modules() if "head" in name)
    counts = (getattr(head, "num_classes", None) for head in heads)
    return max((count for count in counts if isinstance(count, int)), default=1)


def _lower(meta: dict[str, Any]) -> dict[str, Any]:
    # Older versions of the MM libraries write the keys in capitals.
    return {key.lower(): value for key, value in meta.items()}
