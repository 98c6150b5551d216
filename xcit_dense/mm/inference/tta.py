"""Test-time augmentation of detectors: the objects of several views of an image become one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from xcit_dense.errors import UserError

# The axes that a flip reverses, of a mask (H, W).
_AXES = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


@MODELS.register_module(name="InstanceTTAModel", force=True)
class InstanceTTAModel(BaseTTAModel):
    """Merges the objects that a detector finds in several views of an image: other sizes, and flipped images.

    The boxes and masks of flipped views are flipped back. Non-maximum suppression (NMS) within each class keeps the
    objects with the highest scores. A suppressed object of the same class votes for the mask of the kept object with
    which it overlaps most: a pixel of the merged mask has at least half of the votes, and the weight of a vote is the
    score. MMDetection's ``DetTTAModel`` does not merge masks.

    Args:
        iou_threshold: The overlap of two boxes above which NMS takes them for one object, in [0, 1].
        max_per_img: The maximum number of objects of an image.
        **kwargs: As for MMEngine's ``BaseTTAModel``.

    Example:
        >>> from mmengine.structures import BaseDataElement
        >>> def view(box, **meta):
        ...     found = InstanceData(bboxes=torch.tensor([box]), scores=torch.ones(1), labels=torch.zeros(1))
        ...     return BaseDataElement(pred_instances=found, metainfo={"ori_shape": (40, 60), **meta})
        >>> plain = view([5.0, 10.0, 25.0, 30.0], flip=False)
        >>> flipped = view([35.0, 10.0, 55.0, 30.0], flip=True, flip_direction="horizontal")
        >>> detector = torch.nn.Identity()
        >>> detector.test_step = lambda data: data["data_samples"]
        >>> model = InstanceTTAModel(module=detector)
        >>> model.merge_preds([[plain, flipped]])[0].pred_instances.bboxes
        tensor([[ 5., 10., 25., 30.]])
    """

    def __init__(self, iou_threshold: float = 0.5, max_per_img: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.iou_threshold = iou_threshold
        self.max_per_img = max_per_img

    def test_step(self, data: Any) -> list[Any]:
        """Predicts the objects of each view of a batch, and merges them.

        Args:
            data: The ``inputs`` and ``data_samples`` of a batch. Each is a list of views, and a view is a list of
                images.

        Returns:
            As for :meth:`merge_preds`.

        Raises:
            UserError: The samples do not say which views are flipped, or the model predicts something else than
                objects.
        """
        predictions = []
        for inputs, samples in zip(data["inputs"], data["data_samples"], strict=True):
            if not all("flip" in sample for sample in samples):
                raise UserError(
                    "--tta does not know which views are flipped; add 'flip' and 'flip_direction' to the meta_keys of "
                    "PackDetInputs in tta_pipeline, and RandomFlip(prob=0.0) if no view is flipped."
                )
            flips = [{key: sample.get(key) for key in ("flip", "flip_direction")} for sample in samples]
            for sample in samples:
                # MMDetection's CascadeRoIHead tries to flip the masks of a flipped view, and fails.
                sample.set_metainfo({"flip": False})
            found = self.module.test_step({"inputs": inputs, "data_samples": samples})
            for sample, flip in zip(found, flips, strict=True):
                sample.set_metainfo(flip)
            predictions.append(found)
        return self.merge_preds(list(zip(*predictions, strict=True)))

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        """Merges the predictions of a batch.

        Args:
            data_samples_list: For each image, a sample with predictions for each view.

        Returns:
            One sample for each image: the sample of the first view, with the merged ``pred_instances``.

        Raises:
            UserError: The model predicts something else than objects.
        """
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: Sequence[Any]) -> Any:
        merged = views[0]
        if "pred_instances" not in merged or "pred_panoptic_seg" in merged:
            raise UserError(
                "--tta merges boxes and masks of objects, but the model predicts "
                f"{', '.join(sorted(key for key in merged.all_keys() if key.startswith('pred_')))}; test without --tta."
            )
        found = InstanceData.cat([_flip_back(view) for view in views])
        merged.pred_instances = self._suppress(found)
        return merged

    def _suppress(self, found: InstanceData) -> InstanceData:
        """Removes objects that were found more than once, and lets them vote for the masks."""
        order = batched_nms(found.bboxes, found.scores, found.labels, self.iou_threshold)[: self.max_per_img]
        kept = found[order]
        if "masks" in found and len(kept):
            overlaps = box_iou(found.bboxes, kept.bboxes)  # (N found, K kept)
            overlaps[found.labels[:, None] != kept.labels] = 0
            overlap, owner = overlaps.max(dim=1)
            owner[overlap <= self.iou_threshold] = -1  # the rest of objects beyond max_per_img
            owner[order] = torch.arange(len(kept), device=owner.device)
            kept.masks = torch.stack([_vote(found[owner == index]) for index in range(len(kept))])  # (K, H, W)
        return kept


def _flip_back(view: Any) -> InstanceData:
    """Returns the objects of a view in the coordinates of the image that is not flipped."""
    found = view.pred_instances
    flipped = InstanceData(bboxes=found.bboxes.clone(), scores=found.scores, labels=found.labels)
    if "masks" in found:
        flipped.masks = found.masks
    if not view.flip:
        return flipped
    height, width = view.ori_shape
    axes = _AXES[view.flip_direction]
    x1, y1, x2, y2 = found.bboxes.unbind(dim=-1)
    if -1 in axes:
        x1, x2 = width - x2, width - x1
    if -2 in axes:
        y1, y2 = height - y2, height - y1
    flipped.bboxes = torch.stack([x1, y1, x2, y2], dim=-1)  # (N, 4)
    if "masks" in found:
        flipped.masks = found.masks.flip(axes)  # (N, H, W)
    return flipped


def _vote(objects: InstanceData) -> Tensor:
    """Returns the pixels that have at least half of the scores of the masks of one object, (H, W)."""
    weights = objects.scores.clamp(min=1e-6)  # the sum is not zero
    weights = weights / weights.sum()
    return (objects.masks * weights[:, None, None]).sum(dim=0) >= 0.5
