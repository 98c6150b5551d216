"""Random images with the labels that detectors of MMDetection train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from tests.matrix.step import IMAGES, SIDE
from xcit_dense.mm.config.walk import dicts_in

_OBJECTS = 3


def make_batch(config: Config) -> dict[str, Any]:
    """Makes a batch of random images with the labels that the training pipeline of a config loads.

    Args:
        config: The complete config of a detector.

    Returns:
        The images and their samples, as a data loader gives them.
    """
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)) for _ in range(IMAGES)]
    return {"inputs": images, "data_samples": [_make_sample(config, rng, number) for number in range(IMAGES)]}


def _make_sample(config: Config, rng: np.random.Generator, number: int) -> DetDataSample:
    sample = DetDataSample(
        metainfo={
            "img_id": number,
            "img_path": f"{number}.png",
            "img_shape": (SIDE, SIDE),
            "ori_shape": (SIDE, SIDE),
            "scale_factor": (1.0, 1.0),
            "flip": False,
            "flip_direction": None,
            "border": (0, SIDE, 0, SIDE),  # CenterNet and CornerNet
        }
    )
    model = config.model
    sample.gt_instances = _make_objects(rng, _count_classes(model), _loads(config, "with_mask"))
    sample.ignored_instances = sample.gt_instances[:0]
    if _loads(config, "with_seg"):
        stride, classes = _find_semantic(model)
        side = SIDE // stride
        # Blocks of equal labels, so that segments have an area.
        labels = rng.integers(0, classes, (side // 16, side // 16)).repeat(16, 0).repeat(16, 1)
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(labels.astype(np.uint8))[None])
    if "roi_head" in model and "rpn_head" not in model:  # Fast R-CNN
        corners = _make_boxes(rng, 50)
        sample.proposals = InstanceData(bboxes=torch.from_numpy(corners), scores=torch.ones(len(corners)))
    return sample


def _loads(config: Config, what: str) -> bool:
    """Whether the training pipeline loads a kind of labels: ``'with_mask'`` or ``'with_seg'``."""
    steps = list(dicts_in(config.get("train_dataloader") or {}))
    return any(step.get(what) or step.get("type") == "LoadPanopticAnnotations" for step in steps)


def _make_objects(rng: np.random.Generator, classes: int, with_masks: bool) -> InstanceData:
    boxes = _make_boxes(rng, _OBJECTS)
    masks = np.zeros((_OBJECTS, SIDE, SIDE), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
        mask[top:bottom, left:right] = 1
    objects = InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(rng.integers(0, classes, _OBJECTS)))
    if with_masks:
        objects.masks = BitmapMasks(masks, SIDE, SIDE)
    return objects


def _make_boxes(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    corners = rng.uniform(0, SIDE / 2, (count, 2))
    sizes = rng.uniform(SIDE / 8, SIDE / 2, (count, 2))
    return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)


def _count_classes(model: Any) -> int:
    """Returns the smallest number of classes of the heads of objects."""
    counts = [1000]
    for part in dicts_in(model):
        for key in ("num_classes", "num_things_classes"):
            if isinstance(part.get(key), int) and part[key] > 0 and part.get("type") != "RPNHead":
                counts.append(part[key])
    return min(counts)


def _find_semantic(model: Any) -> tuple[int, int]:
    """Returns the stride of the semantic map, and its number of classes."""
    semantic = (model.get("roi_head") or {}).get("semantic_head")
    if semantic:
        return 8, semantic.num_classes
    head = model.get("semantic_head")
    if head:  # Panoptic FPN
        return 4, head.get("num_things_classes", 80) + head.get("num_stuff_classes", 53)
    panoptic = model.get("panoptic_head") or {}
    return 1, panoptic.get("num_things_classes", 80) + panoptic.get("num_stuff_classes", 0)
