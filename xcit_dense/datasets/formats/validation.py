"""Splits validation images off the training images, where a data set has no validation split."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from xcit_dense.datasets.formats.labels import LabelData
from xcit_dense.datasets.formats.objects import Content, ObjectData, select_images
from xcit_dense.errors import UserError


@dataclass(frozen=True)
class Validation:
    """What ``--val-fraction`` and ``--seed`` ask for.

    Attributes:
        fraction: The share of the training images that becomes the validation split, between 0 and 1.
        seed: Another seed chooses other images.
    """

    fraction: float
    seed: int = 0


def choose_validation(names: Iterable[str], validation: Validation) -> set[str]:
    """Chooses the images for validation. The order of the names does not change the result.

    Args:
        names: The names of the training images.
        validation: How many images, and the seed.

    Returns:
        The chosen names. At least one name is chosen, and at least one is not.

    Raises:
        UserError: The fraction is not between 0 and 1, or there are fewer than two images.

    Example:
        >>> sorted(choose_validation(["a", "b", "c", "d"], Validation(0.5)))
        ['b', 'd']
    """
    if not 0 < validation.fraction < 1:
        raise UserError(f"--val-fraction {validation.fraction:g} is not between 0 and 1; write for example 0.1.")
    ordered = sorted(set(names))
    if len(ordered) < 2:
        raise UserError(f"--val-fraction needs two images or more, but the data has {len(ordered)} for training.")
    count = min(max(1, round(len(ordered) * validation.fraction)), len(ordered) - 1)
    return set(random.Random(validation.seed).sample(ordered, count))


def split_off_objects(data: ObjectData, validation: Validation) -> ObjectData:
    """Splits validation images off a data set with objects.

    Args:
        data: The data set. It is read when a split of the result is read.
        validation: How many images, and the seed.

    Returns:
        The data set with the splits ``'train'`` and ``'val'``.

    Raises:
        UserError: The data set has a validation split already.
    """
    _check_splits(data.splits, validation)

    @cache
    def read() -> tuple[Content, set[str]]:
        content = data.splits["train"]()
        return content, choose_validation((image["file_name"] for image in content["images"]), validation)

    def read_train() -> Content:
        content, chosen = read()
        return select_images(content, [image for image in content["images"] if image["file_name"] not in chosen])

    def read_val() -> Content:
        content, chosen = read()
        return select_images(content, [image for image in content["images"] if image["file_name"] in chosen])

    splits: Mapping[str, Callable[[], Content]] = {**data.splits, "train": read_train, "val": read_val}
    return replace(data, splits=splits, files={})


def split_off_labels(data: LabelData, validation: Validation) -> LabelData:
    """Splits validation images off a data set with a class for each pixel.

    Args:
        data: The data set.
        validation: How many images, and the seed.

    Returns:
        The data set with the splits ``'train'`` and ``'val'``.

    Raises:
        UserError: The data set has a validation split already.
    """
    _check_splits(data.splits, validation)
    pairs: Sequence[Any] = data.splits["train"]
    chosen = choose_validation((pair.image for pair in pairs), validation)
    train = [pair for pair in pairs if pair.image not in chosen]
    val = [pair for pair in pairs if pair.image in chosen]
    return replace(data, splits={**data.splits, "train": train, "val": val}, layout=None)


def _check_splits(splits: Mapping[str, Any], validation: Validation) -> None:
    if "val" in splits:
        raise UserError(
            f"--val-fraction {validation.fraction:g} splits validation images off, but the data has a validation split "
            "already; remove --val-fraction."
        )
    if "train" not in splits:
        raise UserError("--val-fraction splits validation images off the training images, but the data has none.")
