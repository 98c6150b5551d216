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
_SIDES = {"SSDNeck": 320}  # further levels of SSD are too small for the kernels of smaller images


def make_batch(config: Config) -> dict[str, Any]:
    """Makes a batch of random images with the labels that the training pipeline of a config loads.

    Args:
        config: The complete config of a detector.

    Returns:
        The images and their samples, as a data loader gives them.
    """
    rng = np.random.default_rng(0)
    side = max((_SIDES.get(part.get("type"), SIDE) for part in dicts_in(config.model)), default=SIDE)
    images = [torch.from_numpy(rng.integers(0, 255, (3, side, side), dtype=np.uint8)) for _ in range(IMAGES)]
    return {"inputs": images, "data_samples": [_make_sample(config, rng, side, number) for number in range(IMAGES)]}


def _make_sample(config: Config, rng: np.random.Generator, side: int, number: int) -> DetDataSample:
    sample = DetDataSample(
        metainfo={
            "img_id": number,
            "img_path": f"{number}.png",
            "img_shape": (side, side),
            "ori_shape": (side, side),
            "scale_factor": (1.0, 1.0),
            "flip": False,
            "flip_direction": None,
            "border": (0, side, 0, side),  # CenterNet and CornerNet
            "homography_matrix": np.eye(3, dtype=np.float32),  # Soft Teacher
        }
    )
    model = config.model
    sample.gt_instances = _make_objects(rng, side, _count_classes(model), _loads(config, "with_mask"))
    sample.ignored_instances = sample.gt_instances[:0]
    if _loads(config, "with_seg"):
        stride, classes = _find_semantic(model)
        # Blocks of equal labels, so that segments have an area.
        count = side // stride // 16
        labels = rng.integers(0, classes, (count, count)).repeat(16, 0).repeat(16, 1)
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(labels.astype(np.uint8))[None])
    if "roi_head" in model and "rpn_head" not in model:  # Fast R-CNN
        corners = _make_boxes(rng, side, 50)
        sample.proposals = InstanceData(bboxes=torch.from_numpy(corners), scores=torch.ones(len(corners)))
    return sample


def _loads(config: Config, what: str) -> bool:
    """Whether the training pipeline loads a kind of labels: ``'with_mask'`` or ``'with_seg'``."""
    steps = list(dicts_in(config.get("train_dataloader") or {}))
    return any(step.get(what) or step.get("type") == "LoadPanopticAnnotations" for step in steps)


def _make_objects(rng: np.random.Generator, side: int, classes: int, with_masks: bool) -> InstanceData:
    boxes = _make_boxes(rng, side, _OBJECTS)
    masks = np.zeros((_OBJECTS, side, side), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
        mask[top:bottom, left:right] = 1
    objects = InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(rng.integers(0, classes, _OBJECTS)))
    if with_masks:
        objects.masks = BitmapMasks(masks, side, side)
    return objects


def _make_boxes(rng: np.random.Generator, side: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    corners = rng.uniform(0, side / 2, (count, 2))
    sizes = rng.uniform(side / 8, side / 2, (count, 2))
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
