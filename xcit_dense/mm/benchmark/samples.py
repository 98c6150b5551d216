"""Random images, and what the models are told about images: sizes and ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from xcit_dense.benchmark.options import Size

_OBJECTS = 8
"""Objects of the ground truth of each image."""
_PROPOSALS = 32
"""Regions of each image in which heads are compared."""


@dataclass(frozen=True)
class Batch:
    """Images and what belongs to them.

    Attributes:
        images: Normalised images (B, 3, H, W).
        samples: The sizes and the ground truth of each image, in the type of the library.
        proposals: Regions of each image. They are independent of a model.
    """

    images: Tensor
    samples: list[Any]
    proposals: list[Any]


def make_batch(segments: bool, classes: int, size: Size, images: int, device: str) -> Batch:
    """Makes a batch, the same at each call.

    Args:
        segments: Whether the model is a segmentor.
        classes: The number of classes of the model.
        size: Height and width of the images.
        images: The number of images.
        device: Where the tensors are.
    """
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(images, 3, *size, generator=generator).to(device)
    make = _segmented if segments else _detected
    samples = [make(classes, size, generator).to(device) for _ in range(images)]
    proposals = [InstanceData(bboxes=_boxes(_PROPOSALS, size, generator)).to(device) for _ in range(images)]
    return Batch(pixels, samples, proposals)


def _detected(classes: int, size: Size, generator: torch.Generator) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    boxes = _boxes(_OBJECTS, size, generator)
    labels = torch.randint(classes, (_OBJECTS,), generator=generator)
    masks = np.zeros((_OBJECTS, *size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist()):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo=_describe(size))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, *size))
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    return sample


def _segmented(classes: int, size: Size, generator: torch.Generator) -> Any:
    from mmseg.structures import SegDataSample

    # Areas of 16 x 16 pixels, because the classes of a pixel and of its neighbours are usually the same.
    height, width = (-(-side // 16) for side in size)
    labels = torch.randint(classes, (1, height, width), generator=generator)
    labels = labels.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)[:, : size[0], : size[1]]
    sample = SegDataSample(metainfo={**_describe(size), "padding_size": [0] * 4})
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _describe(size: Size) -> dict[str, Any]:
    """Returns what the libraries' pipelines say about an image that is neither resized nor padded."""
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    return {**sizes, "scale_factor": (1.0, 1.0), "img_id": 0}


def _boxes(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Makes boxes (count, 4): x1, y1, x2, y2, with sides from a twelfth to a half of the image."""
    height, width = size
    limits = torch.tensor([width, height], dtype=torch.float32)
    sides = limits * (1 / 12 + 5 / 12 * torch.rand(count, 2, generator=generator))
    corner = (limits - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + sides], dim=1)
