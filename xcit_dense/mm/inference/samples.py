"""Converts samples of the MM libraries: predictions to arrays, ground truth to drawings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from xcit_dense.structures import Colour, Instances, Pixels
from xcit_dense.visualization.draw import draw_instances, draw_label_map


def predicted_instances(found: Any) -> Instances:
    """Converts predicted objects to arrays.

    Args:
        found: The ``pred_instances`` of a sample.
    """
    return Instances(
        boxes=found.bboxes.cpu().numpy(),
        labels=found.labels.cpu().numpy(),
        scores=found.scores.cpu().numpy(),
        masks=found.masks.cpu().numpy().astype(bool, copy=False) if "masks" in found else None,
    )


def draw_truth(image: Pixels, sample: Any, classes: Sequence[str], palette: Sequence[Colour]) -> Pixels:
    """Draws the ground truth of a sample: objects (also the objects that a training ignores), or a label map.

    Args:
        image: The image, (H, W, 3), RGB.
        sample: The sample of a detector, with ``gt_instances``, or of a segmentor, with ``gt_sem_seg``.
        classes: The names of the classes.
        palette: The colours of the classes.
    """
    if "gt_instances" not in sample:
        return draw_label_map(image, sample.gt_sem_seg.data[0].cpu().numpy(), classes, palette)
    shape = image.shape[0], image.shape[1]
    ignored = _true_instances(sample.ignored_instances, shape) if "ignored_instances" in sample else None
    return draw_instances(image, _true_instances(sample.gt_instances, shape), classes, palette, ignored)


def _true_instances(found: Any, shape: tuple[int, int]) -> Instances:
    boxes = found.bboxes if isinstance(found.bboxes, Tensor) else found.bboxes.tensor
    # The preprocessor does not pad the masks of ignored objects.
    masks = found.masks.pad(shape).to_ndarray().astype(bool) if "masks" in found else None
    return Instances(boxes.cpu().numpy(), found.labels.cpu().numpy(), masks=masks)
