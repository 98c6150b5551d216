"""Detectors as modules from images to boxes, scores, labels and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xcit_dense.mm.export.boxes import MISSING, Limits, best, decode, limits_of, pool, suppress
from xcit_dense.mm.export.plain import pad
from xcit_dense.mm.export.supported import listed

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (B, N, 4), scores (B, N) and labels (B, N)."""


class Detector(nn.Module):
    """A detector that takes and returns tensors.

    N is ``max_per_img`` of the test settings, for each image. Images with fewer objects are filled up with empty boxes
    of score 0 and label -1.

    Args:
        model: A detector of MMDetection that :func:`xcit_dense.mm.export.supported.check_detector` accepts, in
            evaluation mode.
        divisor: Images are padded at the bottom and at the right to multiples of this number of pixels.
        padding: The value of padded pixels, after the normalisation.
    """

    def __init__(self, model: Any, divisor: int, padding: float = 0.0) -> None:
        super().__init__()
        self.detector = model
        self.divisor = divisor
        self.padding = padding

    @property
    def has_masks(self) -> bool:
        """Whether the detector finds masks."""
        return bool(self.detector.with_mask)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return ("boxes", "scores", "labels", "masks") if self.has_masks else ("boxes", "scores", "labels")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detects objects in normalised images.

        Args:
            images: (B, 3, H, W).

        Returns:
            Boxes (B, N, 4): x1, y1, x2, y2 in pixels of the images. Scores (B, N). Labels (B, N), int64. A detector of
            masks also returns (B, N, h, w): the probability that a point of the box belongs to the object, on a grid.
        """
        limits = limits_of(images)
        levels = self.detector.extract_feat(pad(images, self.divisor, self.padding))
        if hasattr(self.detector, "rpn_head"):
            proposals, _ = _propose(self.detector.rpn_head, levels, limits)
            found = _classify(self.detector.roi_head, levels, proposals, limits)
        else:
            found = _detect(self.detector.bbox_head, levels, limits)
        boxes, scores, labels = found
        # Missing entries have equal scores, so each run time orders them in its own way. Empty boxes make them equal.
        present = scores > MISSING
        boxes = torch.where(present[..., None], boxes, 0.0)
        named = boxes, torch.where(present, scores, 0.0), torch.where(present, labels, -1)
        if not self.has_masks:
            return named
        return *named, _masks(self.detector.roi_head, levels, boxes, labels)


def _per_level(head: Any, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Computes logits (B, M, classes), deltas (B, M, 4) and anchors (M, 4) or points (M, 2) of each level."""
    logits, deltas = head(levels)
    sizes = [level.shape[2:] for level in logits]
    anchors = head.prior_generator.grid_priors(sizes, dtype=logits[0].dtype, device=logits[0].device)
    return [
        (
            # (B, anchors of a position * D, H, W) -> (B, H, W, ...) -> (B, M, D)
            logit.permute(0, 2, 3, 1).reshape(logit.shape[0], -1, head.cls_out_channels),
            delta.permute(0, 2, 3, 1).reshape(delta.shape[0], -1, 4),
            anchor,
        )
        for logit, delta, anchor in zip(logits, deltas, anchors)
    ]


def _decode(coder: Any, anchors: Tensor, deltas: Tensor, limits: Limits) -> Tensor:
    """As :func:`decode`, for anchors (B, M, 4) or (B, M, 2), and deltas (B, M, 4)."""
    return decode(coder, anchors.flatten(0, 1), deltas.flatten(0, 1), limits).view(deltas.shape)


def _is_large(boxes: Tensor, least: float) -> Tensor:
    """Whether both sides of boxes (..., 4) are longer than a number of pixels; a negative number allows all boxes."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return (sides > least).all(dim=-1) if least >= 0 else torch.ones_like(sides[..., 0], dtype=torch.bool)


def _propose(head: Any, levels: Sequence[Tensor], limits: Limits) -> tuple[Tensor, Tensor]:
    """Computes the RPN's proposals (B, P, 4) and their scores (B, P)."""
    cfg = head.test_cfg
    boxes, scores, groups = [], [], []
    for number, (logits, deltas, anchors) in enumerate(_per_level(head, levels)):
        probability = _probabilities(head, logits)[..., 0]  # (B, M)
        anchors = anchors.expand(deltas.shape)  # (M, 4) -> (B, M, 4)
        score, delta, anchor = best(cfg.nms_pre, probability, deltas, anchors)
        boxes.append(_decode(head.bbox_coder, anchor, delta, limits))
        scores.append(score)
        groups.append(torch.full_like(score, number, dtype=torch.int64))
    box, score, group = torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(groups, dim=1)
    score = torch.where(_is_large(box, cfg.get("min_bbox_size", -1)), score, MISSING)
    score = suppress(box, score, group, cfg.nms.iou_threshold)
    score, box = best(cfg.max_per_img, score, box)
    return torch.where((score > MISSING)[..., None], box, 0.0), score


def _probabilities(head: Any, logits: Tensor) -> Tensor:
    """Computes the probabilities of the classes without the background."""
    return logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(dim=-1)[..., :-1]


def _detect(head: Any, levels: Sequence[Tensor], limits: Limits) -> Found:
    """Computes the detections of a head without proposals."""
    cfg = head.test_cfg
    boxes, scores, labels = [], [], []
    for logits, deltas, anchors in _per_level(head, levels):
        probability = _probabilities(head, logits)  # (B, M, classes)
        classes = probability.shape[2]
        flat = probability.flatten(1)  # (B, M classes)
        flat = torch.where(flat > cfg.get("score_thr", 0), flat, MISSING)
        place = torch.arange(flat.shape[1], device=flat.device).expand(flat.shape)  # (B, M classes)
        score, place = best(cfg.nms_pre, flat, place)  # (B, nms_pre)
        anchor = place // classes
        delta = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes.append(_decode(head.bbox_coder, anchors[anchor], delta, limits))
        scores.append(score)
        labels.append(place % classes)
    box, score, label = torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(labels, dim=1)
    score = torch.where(_is_large(box, cfg.get("min_bbox_size", -1)), score, MISSING)
    score = suppress(box, score, label, cfg.nms.iou_threshold)
    score, box, label = best(cfg.max_per_img, score, box, label)
    return box, score, label


def _classify(head: Any, levels: Sequence[Tensor], proposals: Tensor, limits: Limits) -> Found:
    """Computes the detections from the RPN's proposals (B, P, 4)."""
    box_heads, extractors = listed(head.bbox_head), listed(head.bbox_roi_extractor)
    batch, count = proposals.shape[:2]
    exists = _is_large(proposals, 0)  # a missing proposal is an empty box
    total: Tensor | None = None
    for number, (box_head, extractor) in enumerate(zip(box_heads, extractors)):
        features = pool(extractor, levels[: extractor.num_inputs], proposals)
        logits, deltas = box_head(features)  # (B P, classes + 1), (B P, 4) or (B P, 4 classes)
        total = logits if total is None else total + logits
        if number < len(box_heads) - 1:
            label = logits[:, :-1].argmax(dim=1)
            deltas = _of_class(deltas, label)
            proposals = decode(box_head.bbox_coder, proposals.flatten(0, 1), deltas, limits).view(batch, count, 4)
    assert total is not None
    cfg, classes = head.test_cfg, box_heads[-1].num_classes
    scores = (total / len(box_heads)).softmax(dim=-1)[:, :-1].view(batch, count, classes)
    boxes = decode(box_heads[-1].bbox_coder, proposals.flatten(0, 1), deltas, limits)  # (B P, 4) or (B P, 4 classes)
    boxes = boxes.view(batch, count, -1, 4).expand(-1, -1, classes, -1).flatten(1, 2)  # (B, P classes, 4)
    keeps = (scores > cfg.score_thr) & exists[..., None]
    score = torch.where(keeps, scores, MISSING).flatten(1)  # (B, P classes)
    label = torch.arange(classes, device=score.device).repeat(count).expand(score.shape)  # (B, P classes)
    score = suppress(boxes, score, label, cfg.nms.iou_threshold)
    score, box, label = best(cfg.max_per_img, score, boxes, label)
    return box, score, label


def _of_class(deltas: Tensor, label: Tensor) -> Tensor:
    """Takes the deltas (N, 4) of a class for each box from (N, 4 classes). Deltas (N, 4) are for all classes."""
    if deltas.shape[1] == 4:
        return deltas
    return deltas.unflatten(1, (-1, 4)).gather(1, label[:, None, None].expand(-1, 1, 4)).squeeze(1)


def _masks(head: Any, levels: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
    """Computes the masks (B, N, h, w) of boxes (B, N, 4), as probabilities. Stages of a cascade are averaged."""
    batch, count = labels.shape
    mask_heads, extractors = listed(head.mask_head), listed(head.mask_roi_extractor)
    total: Tensor | None = None
    for mask_head, extractor in zip(mask_heads, extractors):
        features = pool(extractor, levels[: extractor.num_inputs], boxes)
        masks = mask_head(features).sigmoid()  # (B N, classes, h, w)
        total = masks if total is None else total + masks
    assert total is not None
    total = total / len(mask_heads)
    chosen = torch.zeros_like(labels) if mask_heads[-1].class_agnostic else labels.clamp(min=0)
    chosen = chosen.flatten()[:, None, None, None].expand(-1, 1, *total.shape[2:])  # (B N, 1, h, w)
    return total.gather(1, chosen).view(batch, count, *total.shape[2:])
