"""Counts the classes of a config's data, and measures the sizes of its objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed

from xcit_dense.errors import UserError
from xcit_dense.mm.config.splits import LOADERS
from xcit_dense.mm.config.walk import datasets_in, dicts_in
from xcit_dense.mm.runtime.console import prints_to_log
from xcit_dense.structures import IGNORED
from xcit_dense.utils.progress import tracked

_LABEL_MAPS = 500  # a larger sample hardly changes the share of a class
_IMAGES = 200  # a larger sample hardly changes the distribution of sizes


@dataclass
class ClassCounts:
    """How often each class occurs.

    Attributes:
        counts: The counts of each class by split: objects, or percent of the labelled pixels.
        unit: What is counted.
        title: The numbers of images and objects.
        notes: Sentences about splits that could not be counted.
    """

    counts: dict[str, dict[str, float]] = field(default_factory=dict)
    unit: str = ""
    title: str = ""
    notes: list[str] = field(default_factory=list)


def count_classes(config: Config, training: Any, verbose: bool = False) -> ClassCounts:
    """Counts the objects or the pixels of each class in the training, validation and test data.

    All objects are counted, except those that training ignores. Of label maps, an evenly spread sample is read.

    Args:
        config: A complete config.
        training: The data set of its training, built.
        verbose: Print what the libraries print while they read the data.

    Returns:
        The counts. A split that several data loaders share is counted once.
    """
    is_detection = config.default_scope == "mmdet"
    found = ClassCounts(unit="objects" if is_detection else "% of the labelled pixels")
    classes = list(training.metainfo["classes"])
    words = []
    keys: set[Any] = set()
    for loader in LOADERS:
        split = loader.partition("_")[0]
        leaves = list(datasets_in(config.get(loader)))
        key = tuple((leaf.get("data_root"), leaf.get("ann_file"), str(leaf.get("data_prefix"))) for leaf in leaves)
        if not leaves or key in keys:
            continue
        keys.add(key)
        try:
            datasets = list(_leaves(training)) if split == "train" else _build(config, leaves, verbose)
        except (OSError, UserError) as error:
            if config.get(
                "val_dataloader"
            ):  # without validation data, the test's settings name files that do not exist
                found.notes.append(f"The {split} data is not counted, because it cannot be read: {error}")
            continue
        images = sum(map(len, datasets))
        if is_detection:
            numbers = sum((_count_objects(dataset, len(classes)) for dataset in datasets), np.zeros(len(classes), int))
            words.append(f"{split}: {numbers.sum():,} objects in {images:,} images")
        else:
            numbers, opened = _count_pixels(config, datasets, len(classes))
            part = f"{opened:,} of " if opened < images else ""
            words.append(f"{split}: {part}{images:,} label maps")
            numbers = 100 * numbers / max(1, numbers.sum())
        found.counts[split] = dict(zip(classes, numbers.tolist(), strict=True))
    found.title = "  ·  ".join(words)
    return found


@dataclass(frozen=True)
class Sizes:
    """How large objects are.

    Attributes:
        sizes: (N,), the square root of the area of each object in pixels.
        unit: What was measured, in the plural.
        title: The numbers of objects and images.
    """

    sizes: npt.NDArray[np.floating]
    unit: str
    title: str


def measure_sizes(config: Config, training: Any, seed: int = 0) -> Sizes:
    """Measures objects as training sees them, after augmentation. For label maps, connected regions of one class.

    The area of an object is the area of its mask, or else of its box.

    Args:
        config: A complete config.
        training: The data set of its training, built.
        seed: The seed of the augmentation.

    Returns:
        The sizes in an evenly spread sample of the images.
    """
    set_random_seed(seed)
    count = len(training)
    chosen = sorted({index * count // min(count, _IMAGES) for index in range(min(count, _IMAGES))})
    areas: list[float] = []
    for index in tracked("images measured", chosen):
        sample = training[index]["data_samples"]
        if "gt_instances" in sample:
            areas.extend(_object_areas(sample.gt_instances))
        else:
            areas.extend(_region_areas(sample.gt_sem_seg.data[0].cpu().numpy(), len(training.metainfo["classes"])))
    unit = "objects" if config.default_scope == "mmdet" else "regions of one class"
    title = f"{len(areas):,} {unit} in {len(chosen):,} of {count:,} images, as training sees them"
    return Sizes(np.sqrt(np.array(areas, float)), unit, title)


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers and concatenations."""
    if hasattr(dataset, "datasets"):
        for each in dataset.datasets:
            yield from _leaves(each)
    elif hasattr(dataset, "dataset"):
        yield from _leaves(dataset.dataset)
    else:
        yield dataset


def _build(config: Config, leaves: list[Any], verbose: bool) -> list[Any]:
    scope = config.default_scope
    registry = import_module(f"{scope}.registry").DATASETS
    quiet = nullcontext() if verbose else prints_to_log(MMLogger.get_current_instance())
    with quiet, DefaultScope.overwrite_default_scope(scope):
        return [registry.build({**deepcopy(leaf), "pipeline": []}) for leaf in leaves]


def _count_objects(dataset: Any, classes: int) -> npt.NDArray[np.integer]:
    labels: list[int] = []
    for index in tracked("images counted", range(len(dataset))):
        instances = dataset.get_data_info(index).get("instances", ())
        labels += [each["bbox_label"] for each in instances if not each.get("ignore_flag")]
    return np.bincount(np.array(labels, int), minlength=classes)[:classes]


def _count_pixels(config: Config, datasets: list[Any], classes: int) -> tuple[npt.NDArray[np.integer], int]:
    """The pixels of each class in a sample of the label maps, and the size of the sample."""
    pipelines = [leaf.pipeline for leaf in datasets_in(config.train_dataloader)]
    loading = next(node for node in dicts_in(pipelines) if str(node.get("type")).endswith("LoadAnnotations"))
    load = import_module("mmseg.registry").TRANSFORMS.build(deepcopy(loading))
    pairs = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    chosen = pairs[:: -(-len(pairs) // _LABEL_MAPS) or 1]
    numbers = np.zeros(IGNORED + 1, int)
    for dataset, index in tracked("label maps counted", chosen):
        label_map = load({**dataset.get_data_info(index), "seg_fields": []})["gt_seg_map"]
        numbers += np.bincount(label_map.ravel(), minlength=len(numbers))[: len(numbers)]
    return numbers[:classes], len(chosen)


def _object_areas(objects: Any) -> list[float]:
    if "masks" in objects:
        return [float(area) for area in objects.masks.areas]
    boxes = getattr(objects.bboxes, "tensor", objects.bboxes)
    return ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).tolist()


def _region_areas(label_map: npt.NDArray[np.integer], classes: int) -> list[float]:
    areas: list[float] = []
    for label in np.unique(label_map):
        if label < classes:
            *_, statistics, _ = cv2.connectedComponentsWithStats((label_map == label).astype(np.uint8), connectivity=8)
            areas += statistics[1:, cv2.CC_STAT_AREA].tolist()  # the first component is the background
    return areas
