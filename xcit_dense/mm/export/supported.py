"""Which detectors and segmentors can be exported: the checks, and the sentences for the others."""

from __future__ import annotations

from typing import Any

from torch import nn

from xcit_dense.errors import UserError

_DETECTORS = "Mask R-CNN, Faster R-CNN, Cascade R-CNN, RetinaNet and RTMDet"


def check_detector(model: nn.Module) -> None:
    """Checks that each part of a detector can be exported.

    Args:
        model: A detector of MMDetection.

    Raises:
        UserError: A part cannot be exported. The message names the part.
    """
    from mmdet.models import CascadeRCNN, FasterRCNN, MaskRCNN, RetinaNet, RTMDet
    from mmdet.models.dense_heads import RetinaHead, RPNHead, RTMDetHead, RTMDetSepBNHead
    from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead

    from xcit_dense.mm.roi_heads import FusedCascadeRoIHead, FusedStandardRoIHead

    detector: Any = model
    if type(model) in (RetinaNet, RTMDet):
        heads = (RetinaHead,) if type(model) is RetinaNet else (RTMDetHead, RTMDetSepBNHead)
        _check_type("the head", detector.bbox_head, *heads)
        _check_dense(detector.bbox_head, of_points=type(model) is RTMDet)
        _check_test_cfg("model.test_cfg", detector.test_cfg)
        return
    if type(model) not in (MaskRCNN, FasterRCNN, CascadeRCNN):
        raise UserError(
            f"{type(model).__name__} cannot be exported: its head {_name_head(detector)} is not written as plain "
            f"tensor operations; export {_DETECTORS}, or the backbone with --part backbone."
        )
    _check_type("the RPN", detector.rpn_head, RPNHead)
    _check_dense(detector.rpn_head, of_points=False)
    _check_test_cfg("model.test_cfg.rpn", detector.rpn_head.test_cfg)
    _check_type(
        "the RoI head",
        detector.roi_head,
        StandardRoIHead,
        CascadeRoIHead,
        FusedStandardRoIHead,
        FusedCascadeRoIHead,
    )
    _check_roi_head(detector.roi_head)
    _check_test_cfg("model.test_cfg.rcnn", detector.roi_head.test_cfg)


def check_segmentor(model: nn.Module) -> None:
    """Checks that a segmentor can be exported.

    Args:
        model: A segmentor of MMSegmentation.

    Raises:
        UserError: The segmentor tests in windows, or its head is not a function from maps to logits.
    """
    from mmseg.models import EncoderDecoder
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    from xcit_dense.mm.segmentors import FusedEncoderDecoder
    from xcit_dense.mm.streaming.training import ShardedEncoderDecoder

    segmentor: Any = model
    if type(model) not in (EncoderDecoder, FusedEncoderDecoder, ShardedEncoderDecoder):
        raise UserError(
            f"{type(model).__name__} cannot be exported; export an EncoderDecoder, or the backbone with "
            "--part backbone."
        )
    head = segmentor.decode_head
    plain = isinstance(head, BaseDecodeHead) and type(head).predict is BaseDecodeHead.predict
    if not plain or type(head).predict_by_feat is not BaseDecodeHead.predict_by_feat:
        raise UserError(
            f"The head {type(head).__name__} cannot be exported, because it does not predict with one map of logits; "
            "export a segmentor such as Semantic FPN or UperNet, or the backbone with --part backbone."
        )
    if head.align_corners:
        raise UserError("A head with align_corners=True cannot be exported; write align_corners=False.")
    if segmentor.test_cfg.get("mode", "whole") != "whole":
        raise UserError(
            f"The segmentor tests with mode={segmentor.test_cfg.mode!r}, and a graph predicts complete images; write "
            "--cfg-options model.test_cfg.mode=whole."
        )


def _check_dense(head: Any, of_points: bool) -> None:
    from mmdet.models.task_modules.coders import DistancePointBBoxCoder
    from mmdet.models.task_modules.prior_generators import AnchorGenerator, MlvlPointGenerator

    if of_points:
        _check_type("the points", head.prior_generator, MlvlPointGenerator)
        _check_type("a box coder", head.bbox_coder, DistancePointBBoxCoder)
    else:
        _check_type("the anchors", head.prior_generator, AnchorGenerator)
        _check_coder(head.bbox_coder)
    if getattr(head.loss_cls, "custom_cls_channels", False):
        raise UserError(f"The loss {type(head.loss_cls).__name__} cannot be exported, because it defines own scores.")


def _check_roi_head(head: Any) -> None:
    from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    from xcit_dense.mm.roi_heads import FusedFCNMaskHead, FusedSingleRoIExtractor

    if getattr(head, "shared_head", None) is not None:
        raise UserError(f"The shared head {type(head.shared_head).__name__} cannot be exported.")
    for box_head in listed(head.bbox_head):
        _check_type("a box head", box_head, ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead)
        _check_coder(box_head.bbox_coder)
        if box_head.custom_cls_channels:
            raise UserError(
                f"The loss {type(box_head.loss_cls).__name__} cannot be exported, as it defines own scores."
            )
    extractors = listed(head.bbox_roi_extractor)
    if head.with_mask:
        for mask_head in listed(head.mask_head):
            _check_type("a mask head", mask_head, FCNMaskHead, FusedFCNMaskHead)
        extractors += listed(head.mask_roi_extractor)
    for extractor in extractors:
        _check_type("a RoI extractor", extractor, SingleRoIExtractor, FusedSingleRoIExtractor)
        layer: Any = extractor.roi_layers[0]
        if type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg":
            raise UserError(
                f"The RoI layer {type(layer).__name__} cannot be exported; write RoIAlign with pool_mode 'avg'."
            )


def listed(part: Any) -> list[Any]:
    """Returns the parts of a cascade, or the only part.

    Args:
        part: A module, or an ``nn.ModuleList``.
    """
    return [*part] if isinstance(part, nn.ModuleList) else [part]


def _check_coder(coder: Any) -> None:
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

    _check_type("a box coder", coder, DeltaXYWHBBoxCoder)


def _check_type(what: str, part: Any, *kinds: type) -> None:
    """Checks the exact type, because a subclass may compute something else."""
    if type(part) not in kinds:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise UserError(
            f"{type(part).__name__}, {what} of the detector, cannot be exported; export a detector with {names}, or "
            "the backbone with --part backbone."
        )


def _check_test_cfg(name: str, cfg: Any) -> None:
    nms = dict(cfg.get("nms") or {})
    if nms.get("type", "nms") != "nms" or nms.get("class_agnostic"):
        raise UserError(
            f"{name}.nms={nms} cannot be exported; write dict(type='nms', iou_threshold=...), without class_agnostic."
        )
    if cfg.get("max_per_img", -1) < 1:
        raise UserError(f"{name}.max_per_img={cfg.get('max_per_img', -1)} cannot be exported; write 100, for example.")


def _name_head(detector: Any) -> str:
    for name in ("roi_head", "bbox_head", "mask_head", "panoptic_head"):
        head = getattr(detector, name, None)
        if head is not None:
            return type(head).__name__
    return "of an unknown kind"
