"""What MMDetection's samples hold, as arrays."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..draw import Instances


def predicted_instances(found: Any) -> Instances:
    """Predicted objects.

    Args:
        found: ``pred_instances`` of a sample.
    """
    return Instances(
        boxes=found.bboxes.cpu().numpy(),
        labels=found.labels.cpu().numpy(),
        scores=found.scores.cpu().numpy(),
        masks=found.masks.cpu().numpy().astype(bool, copy=False) if "masks" in found else None,
    )


def true_instances(found: Any, shape: tuple[int, int]) -> Instances:
    """Objects of the ground truth, or those that training ignores.

    Args:
        found: ``gt_instances`` or ``ignored_instances`` of a sample.
        shape: Height and width of the picture, which masks are padded to.
    """
    boxes = found.bboxes if isinstance(found.bboxes, Tensor) else found.bboxes.tensor
    masks = found.masks.pad(shape).to_ndarray().astype(bool) if "masks" in found else None
    return Instances(boxes.cpu().numpy(), found.labels.cpu().numpy(), masks=masks)
