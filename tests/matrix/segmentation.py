"""Random images with the labels that segmentors of MMSegmentation train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from tests.matrix.step import IMAGES

_SIDE = 128  # pixels of an image
_SIDES = {"LRASPPHead": 512}  # the head pools over 49 x 49 positions of the level of stride 8
_BLOCK = 16  # pixels of a square of one class


def make_batch(config: Config) -> dict[str, Any]:
    """Makes a batch of random images with a class, an edge and a depth for each pixel.

    Args:
        config: The config of a segmentor.

    Returns:
        The images and their samples, as a data loader gives them.
    """
    rng = np.random.default_rng(0)
    head = config.model.decode_head
    head = head[-1] if isinstance(head, list) else head
    side = _SIDES.get(head.type, _SIDE)
    images = [torch.from_numpy(rng.integers(0, 255, (3, side, side), dtype=np.uint8)) for _ in range(IMAGES)]
    samples = [_make_sample(rng, side, head.get("num_classes", 2)) for _ in range(IMAGES)]
    return {"inputs": images, "data_samples": samples}


def _make_sample(rng: np.random.Generator, side: int, classes: int) -> SegDataSample:
    shape = (side, side)
    sample = SegDataSample(
        metainfo={"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "flip": False, "flip_direction": None}
    )
    labels = rng.integers(0, classes, (side // _BLOCK, side // _BLOCK)).repeat(_BLOCK, 0).repeat(_BLOCK, 1)
    edges = rng.integers(0, 2, shape)
    depths = rng.uniform(1, 9, shape).astype(np.float32)
    for name, values in (("gt_sem_seg", labels), ("gt_edge_map", edges), ("gt_depth_map", depths)):
        sample.set_field(PixelData(data=torch.from_numpy(values)[None]), name, PixelData)
    return sample
