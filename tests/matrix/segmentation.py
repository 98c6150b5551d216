"""Random images with the labels that segmentors of MMSegmentation train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

SIDE = 128  # pixels of an image
IMAGES = 2
_BLOCK = 16  # pixels of a square of one class


def make_batch(model: Any) -> dict[str, Any]:
    """Makes a batch of random images with a class, an edge and a depth for each pixel.

    Args:
        model: The config of a segmentor.

    Returns:
        The images and their samples, as a data loader gives them.
    """
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)) for _ in range(IMAGES)]
    return {"inputs": images, "data_samples": [_make_sample(model, rng) for _ in range(IMAGES)]}


def _make_sample(model: Any, rng: np.random.Generator) -> SegDataSample:
    side = (SIDE, SIDE)
    sample = SegDataSample(
        metainfo={"img_shape": side, "ori_shape": side, "pad_shape": side, "flip": False, "flip_direction": None}
    )
    head = model.decode_head[-1] if isinstance(model.decode_head, list) else model.decode_head
    count = SIDE // _BLOCK
    labels = rng.integers(0, head.get("num_classes", 2), (count, count)).repeat(_BLOCK, 0).repeat(_BLOCK, 1)
    edges = rng.integers(0, 2, side)
    depths = rng.uniform(1, 9, side)
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels)[None])
    sample.gt_edge_map = PixelData(data=torch.from_numpy(edges)[None])
    sample.gt_depth_map = PixelData(data=torch.from_numpy(depths.astype(np.float32))[None])
    return sample
