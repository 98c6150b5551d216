"""Converts samples of the MM libraries: predictions to arrays, ground truth to drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from xcit_dense.structures import IGNORED, Colour, Instances, Pixels
from xcit_dense.visualization.contact_sheet import shrink_image, shrink_instances, shrink_map
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


@dataclass(frozen=True)
class Truth:
    """The ground truth of an image: objects, or a label map.

    Attributes:
        objects: The objects. None for a label map.
        ignored: The objects that a training ignores. None if the sample has none.
        label_map: (H, W), class indices. None for objects.
    """

    objects: Instances | None = None
    ignored: Instances | None = None
    label_map: npt.NDArray[np.integer] | None = None

    def draw(self, image: Pixels, classes: Sequence[str], palette: Sequence[Colour]) -> Pixels:
        """Draws the ground truth over its image.

        Args:
            image: The image, (H, W, 3), RGB.
            classes: The names of the classes.
            palette: The colours of the classes.
        """
        if self.objects is None:
            assert self.label_map is not None
            return draw_label_map(image, self.label_map, classes, palette)
        return draw_instances(image, self.objects, classes, palette, self.ignored)

    def draw_tile(self, image: Pixels, classes: Sequence[str], palette: Sequence[Colour]) -> Pixels:
        """Draws the ground truth over its image, reduced for a contact sheet and without a legend.

        Args:
            image: The image, (H, W, 3), RGB.
            classes: The names of the classes.
            palette: The colours of the classes.
        """
        height, width = image.shape[:2]
        small = shrink_image(image)
        if self.objects is None:
            assert self.label_map is not None
            return draw_label_map(small, shrink_map(self.label_map), classes, palette, legend=False)
        objects = shrink_instances(self.objects, height, width)
        ignored = None if self.ignored is None else shrink_instances(self.ignored, height, width)
        return draw_instances(small, objects, classes, palette, ignored)

    def labels(self) -> npt.NDArray[np.integer]:
        """The class index of each object, or of each pixel that has a class or an invalid value."""
        if self.objects is None:
            assert self.label_map is not None
            return self.label_map[self.label_map != IGNORED]
        return self.objects.labels


def read_truth(sample: Any, shape: tuple[int, int]) -> Truth:
    """Reads the ground truth of a sample.

    Args:
        sample: The sample of a detector, with ``gt_instances``, or of a segmentor, with ``gt_sem_seg``.
        shape: The height and width of the image.
    """
    if "gt_instances" not in sample:
        return Truth(label_map=sample.gt_sem_seg.data[0].cpu().numpy())
    ignored = _true_instances(sample.ignored_instances, shape) if "ignored_instances" in sample else None
    return Truth(_true_instances(sample.gt_instances, shape), ignored)


def draw_truth(image: Pixels, sample: Any, classes: Sequence[str], palette: Sequence[Colour]) -> Pixels:
    """Draws the ground truth of a sample: objects (also the objects that a training ignores), or a label map.

    Args:
        image: The image, (H, W, 3), RGB.
        sample: The sample of a detector, with ``gt_instances``, or of a segmentor, with ``gt_sem_seg``.
        classes: The names of the classes.
        palette: The colours of the classes.
    """
    return read_truth(sample, (image.shape[0], image.shape[1])).draw(image, classes, palette)


def _true_instances(found: Any, shape: tuple[int, int]) -> Instances:
    boxes = found.bboxes if isinstance(found.bboxes, Tensor) else found.bboxes.tensor
    # The preprocessor does not pad the masks of ignored objects.
    masks = found.masks.pad(shape).to_ndarray().astype(bool) if "masks" in found else None
    return Instances(boxes.cpu().numpy(), found.labels.cpu().numpy(), masks=masks)
