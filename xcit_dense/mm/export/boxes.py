"""Operations on boxes whose results have fixed sizes: the best entries of each image, NMS, RoIAlign on several levels.

B images have M entries each. An entry that does not exist has the score :data:`MISSING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from mmdet.models.task_modules.coders import DistancePointBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmdet.structures.bbox import distance2bbox
from torch import Tensor
from torch.nn import functional as F

MISSING = -1.0
"""The score of an entry that does not exist."""

Limits = tuple[Tensor, Tensor]
"""Height and width of the images, in pixels, as floating-point tensors without dimensions."""


def limits_of(images: Tensor) -> Limits:
    """Returns the height and width of images (B, C, H, W).

    The numbers are sums of ones, because a graph can compute those for all sizes and in each format.

    Args:
        images: The images.
    """
    ones = torch.ones_like(images[0, 0])  # (H, W)
    return ones[:, 0].sum(), ones[0].sum()


def decode(coder: Any, anchors: Tensor, deltas: Tensor, limits: Limits) -> Tensor:
    """Computes boxes from anchors and the output of a head.

    Args:
        coder: MMDetection's ``DeltaXYWHBBoxCoder`` or ``DistancePointBBoxCoder``.
        anchors: (N, 4), x1, y1, x2, y2 in pixels; or for distances from points (N, 2), x, y.
        deltas: (N, 4).
        limits: The size of the images.

    Returns:
        (N, 4), clipped to the images.
    """
    if isinstance(coder, DistancePointBBoxCoder):
        boxes = distance2bbox(anchors, deltas)
    else:
        boxes = delta2bbox(
            anchors,
            deltas,
            coder.means,
            coder.stds,
            max_shape=None,
            wh_ratio_clip=16 / 1000,
            add_ctr_clamp=coder.add_ctr_clamp,
            ctr_clamp=coder.ctr_clamp,
        )
    if not coder.clip_border:
        return boxes
    height, width = limits
    most = torch.stack((width, height, width, height))
    return torch.minimum(boxes.clamp(min=0), most)


def best(count: int, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Takes the entries with the highest scores from each image.

    Args:
        count: The number of entries to take. Images with fewer entries are filled up with missing ones.
        scores: (B, M).
        *others: Further tensors (B, M) or (B, M, D).

    Returns:
        The scores and the further tensors, (B, count) or (B, count, D), in descending order of the scores.
    """
    # Missing entries make the number of entries at least the count at all image sizes.
    scores = F.pad(scores, (0, count), value=MISSING)
    scores, places = scores.topk(count, dim=1)  # (B, count)
    taken = [scores]
    for other in others:
        if other.ndim == 2:
            taken.append(F.pad(other, (0, count)).gather(1, places))
        else:
            filled = F.pad(other, (0, 0, 0, count))  # (B, M + count, D)
            taken.append(filled.gather(1, places[..., None].expand(-1, -1, other.shape[2])))
    return tuple(taken)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression within each image and group.

    Args:
        boxes: (B, M, 4), in pixels.
        scores: (B, M).
        groups: (B, M), indices of classes or levels. Boxes of different groups do not suppress each other.
        threshold: The intersection over union above which a box is suppressed.

    Returns:
        (B, M), the scores. Suppressed entries become missing.
    """
    batch, count = scores.shape
    image = torch.arange(batch, device=boxes.device)[:, None].expand(batch, count)  # (B, M)
    present = (scores > MISSING).flatten().nonzero().squeeze(1)  # (K,)
    flat_boxes, flat_scores = boxes.flatten(0, 1)[present], scores.flatten()[present]
    # Boxes of different images and groups are moved so far apart that they do not overlap.
    group = (image * (groups.max() + 1) + groups).flatten()[present]  # (K,)
    step = boxes.max() + 1
    moved = flat_boxes + (group.to(boxes.dtype) * step)[:, None]  # (K, 4)
    kept = torch.ops.torchvision.nms(moved, flat_scores, threshold)
    result = torch.full_like(scores, MISSING).flatten()  # (B M,)
    return result.index_put((present[kept],), flat_scores[kept]).view(batch, count)


def pool(extractor: Any, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Pools the features inside boxes from the level that fits the size of each box.

    Args:
        extractor: MMDetection's ``SingleRoIExtractor`` with RoIAlign.
        levels: The maps (B, C, H', W') that the extractor reads.
        boxes: (B, N, 4), in pixels.

    Returns:
        (B N, C, h, w), for the output size h x w of the extractor.
    """
    batch, count = boxes.shape[:2]
    image = torch.arange(batch, device=boxes.device, dtype=boxes.dtype)[:, None, None].expand(batch, count, 1)
    rois = torch.cat((image, boxes), dim=2).flatten(0, 1)  # (B N, 5)
    chosen = extractor.map_roi_levels(rois, len(levels))  # (B N,)
    height, width = extractor.roi_layers[0].output_size
    pooled = rois.new_zeros(batch * count, extractor.out_channels, height, width)
    for number, (level, layer) in enumerate(zip(levels, extractor.roi_layers)):
        rows = (chosen == number).nonzero().squeeze(1)
        features = torch.ops.torchvision.roi_align(
            level, rois[rows], layer.spatial_scale, height, width, layer.sampling_ratio, layer.aligned
        )
        pooled = pooled.index_put((rows,), features)
    return pooled
