"""Parts of MMDetection's two-stage detectors that need less time on a CPU, with the same parameters and results.

MMDetection imports this module when it looks up its first model. Segmentors do not need MMDetection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmcv.cnn.bricks.wrappers import ConvTranspose2d
    from mmcv.ops import RoIAlign, roi_align
    from mmdet.models.losses import CrossEntropyLoss
    from mmdet.models.roi_heads.cascade_roi_head import CascadeRoIHead
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import FCNMaskHead
    from mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor import SingleRoIExtractor
    from mmdet.models.roi_heads.standard_roi_head import StandardRoIHead
    from mmdet.models.task_modules.assigners import BboxOverlaps2D
    from mmdet.registry import MODELS, TASK_UTILS
    from mmdet.structures.bbox import get_box_tensor
    from mmdet.structures.mask import BitmapMasks

from xcit_dense.ops.layers import plain_type
from xcit_dense.ops.mmcv.common import working_dtype
from xcit_dense.ops.mmcv.roi_sums import Pooling, can_sum_rows, pool_levels
from xcit_dense.ops.transforms import is_traced

_LABELS: ContextVar[Tensor | None] = ContextVar("_LABELS", default=None)
"""The classes (N,) of the RoIs whose masks a RoI head asks for. None if it asks for the masks of all classes."""

_ROIS_AT_ONCE = 16
"""On a CPU, a mask head that predicts enlarges the maps of this number of RoIs at once. The maps stay in the caches."""

_BOXES_AT_ONCE = 2**14
"""The number of anchors whose overlaps are computed at once."""


@MODELS.register_module(name="FusedSingleRoIExtractor", force=True)
class FusedSingleRoIExtractor(SingleRoIExtractor):
    """MMDetection's ``SingleRoIExtractor``, faster on a CPU.

    Bins are sums of weighted rows of the maps (:func:`xcit_dense.ops.mmcv.roi_sums.pool_levels`), also if mmcv has
    compiled operators. Arguments, outputs and gradients are those of ``SingleRoIExtractor``, except for rounding. The
    output is in channels-last memory. A layer with hooks, or of another type than mmcv's ``RoIAlign`` with the average,
    is called.

    Example:
        >>> import torch
        >>> from xcit_dense.mm.roi_heads import FusedSingleRoIExtractor
        >>> layer = dict(type="RoIAlign", output_size=7, sampling_ratio=0)
        >>> extractor = FusedSingleRoIExtractor(layer, out_channels=16, featmap_strides=[4, 8])
        >>> levels = (torch.rand(1, 16, 32, 32), torch.rand(1, 16, 16, 16))
        >>> extractor(levels, torch.tensor([[0.0, 8, 8, 40, 40]])).shape
        torch.Size([1, 16, 7, 7])
    """

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pools the features inside boxes from the level that fits the size of each box.

        Args:
            feats: The levels (B, C, H, W).
            rois: (K, 5) index of the image, x1, y1, x2, y2 in pixels.
            roi_scale_factor: The boxes are enlarged by this factor around their centres.

        Returns:
            (K, C, h, w), for the output size h x w.
        """
        layers = list(self.roi_layers)[: len(feats)]
        if is_traced() or len(layers) != len(feats) or not all(_is_average(layer) for layer in layers):
            return super().forward(feats, rois, roi_scale_factor)
        given = rois
        rois = rois.type_as(feats[0])
        level = self.map_roi_levels(rois, len(feats))
        if roi_scale_factor is not None and len(feats) > 1:
            rois = self.roi_rescale(rois, roi_scale_factor)
        dtype = working_dtype(feats[0])
        maps, rois = [x.to(dtype) for x in feats], rois.to(dtype)
        poolings = [
            Pooling(tuple(layer.output_size), layer.spatial_scale, layer.sampling_ratio, layer.aligned)
            for layer in layers
        ]
        if not all(can_sum_rows(x, rois, pooling) for x, pooling in zip(maps, poolings)):
            return super().forward(feats, given, roi_scale_factor)
        return pool_levels(maps, rois, level, poolings).to(feats[0].dtype)


@MODELS.register_module(name="FusedFCNMaskHead", force=True)
class FusedFCNMaskHead(FCNMaskHead):
    """MMDetection's ``FCNMaskHead``, faster on a CPU and with less memory.

    The head computes its logits before it moves the four outputs of the transposed convolution to their places. Inside
    of :class:`FusedStandardRoIHead` or :class:`FusedCascadeRoIHead`, the head computes only the logits of the class of
    each RoI, because masks and the loss read no others. Ground truth is not copied for each RoI. Arguments, parameters,
    outputs and gradients are those of ``FCNMaskHead``, except for rounding, so weights load both ways.

    Example:
        >>> import torch
        >>> from xcit_dense.mm.roi_heads import FusedFCNMaskHead
        >>> head = FusedFCNMaskHead(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=3)
        >>> head(torch.rand(2, 8, 14, 14)).shape
        torch.Size([2, 3, 28, 28])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits of masks.

        Args:
            x: (N, C, h, w) features of RoIs.

        Returns:
            (N, classes, 2 h, 2 w). (N, 1, 2 h, 2 w) if the RoI head named the class of each RoI.
        """
        labels = None if self.class_agnostic else _LABELS.get()
        if labels is not None and len(labels) != len(x):
            labels = None
        if not self._is_linear() or is_traced() or not len(x):
            return _select(super().forward(x), labels)
        for conv in self.convs:
            x = conv(x)
        if torch.is_grad_enabled() or not x.is_cpu:
            return self._enlarge(x, labels)
        parts = [slice(start, start + _ROIS_AT_ONCE) for start in range(0, len(x), _ROIS_AT_ONCE)]
        return torch.cat([self._enlarge(x[part], None if labels is None else labels[part]) for part in parts])

    def _is_linear(self) -> bool:
        """Returns whether a plain transposed convolution without overlaps and a plain 1 x 1 convolution follow."""
        if self.upsample_method != "deconv" or plain_type(self.conv_logits) is not nn.Conv2d:
            return False
        if plain_type(self.upsample) not in (nn.ConvTranspose2d, ConvTranspose2d):
            return False
        up, logits = self.upsample, self.conv_logits
        return (
            up.kernel_size == up.stride
            and up.padding == up.output_padding == (0, 0)
            and up.dilation == (1, 1)
            and up.groups == logits.groups == 1
            and logits.kernel_size == logits.stride == (1, 1)
            and logits.padding == (0, 0)
        )

    def _enlarge(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Applies the transposed convolution, ReLU and the layer of the logits to maps (N, C, h, w)."""
        up, logits = self.upsample, self.conv_logits
        batch, channels, height, width = x.shape
        rows, columns = up.kernel_size
        # (C, C', rows, columns) -> (rows columns C', C)
        weight = up.weight.permute(2, 3, 1, 0).reshape(-1, channels)
        bias = None if up.bias is None else up.bias.repeat(rows * columns)
        y = F.linear(x.permute(0, 2, 3, 1), weight, bias).relu_()  # (N, h, w, rows columns C')
        y = y.view(batch, -1, up.out_channels)  # (N, h w rows columns, C')
        if labels is None:
            y = F.linear(y, logits.weight.flatten(1), logits.bias)  # (N, h w rows columns, classes)
        else:
            y = torch.bmm(y, logits.weight[labels].flatten(2))  # (N, h w rows columns, 1)
            y = y if logits.bias is None else y + logits.bias[labels][:, None, None]
        y = y.view(batch, height, width, rows, columns, -1).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(batch, -1, height * rows, width * columns)

    def get_targets(
        self, sampling_results: Sequence[Any], batch_gt_instances: Sequence[Any], rcnn_train_cfg: Any
    ) -> Tensor:
        """Crops and resizes the ground truth of sampled boxes.

        Args:
            sampling_results: The sampled boxes of each image.
            batch_gt_instances: The ground truth of each image.
            rcnn_train_cfg: The training settings of the RoI head, with ``mask_size``.

        Returns:
            (N, h, w) masks of the N positive boxes, for ``mask_size`` h x w.
        """
        masks = [instances.masks for instances in batch_gt_instances]
        if not masks or any(type(one) is not BitmapMasks or not len(one) for one in masks):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        size = _pair(rcnn_train_cfg.mask_size)
        targets = []
        for sampled, bitmaps in zip(sampling_results, masks):
            boxes = sampled.pos_priors
            limit = boxes.new_tensor([bitmaps.width, bitmaps.height] * 2)
            boxes = torch.minimum(boxes.clamp(min=0), limit)
            # The library copies the mask of an object for each of its boxes.
            used, index = sampled.pos_assigned_gt_inds.unique(return_inverse=True)
            maps = torch.from_numpy(bitmaps.masks[used.cpu().numpy()]).to(boxes)[:, None]  # (objects, 1, H, W)
            rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)  # (N, 5)
            values = roi_align(maps, rois, size, 1.0, 0, "avg", True)[:, 0]
            targets.append(values if rcnn_train_cfg.get("soft_mask_target", False) else values >= 0.5)
        return torch.cat(targets).float()

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: Sequence[Any],
        batch_gt_instances: Sequence[Any],
        rcnn_train_cfg: Any,
    ) -> dict[str, Any]:
        """Computes the loss of masks.

        Args:
            mask_preds: (N, classes, h, w) logits of the positive boxes, or (N, 1, h, w) of their classes.
            sampling_results: The sampled boxes of each image.
            batch_gt_instances: The ground truth of each image.
            rcnn_train_cfg: The training settings of the RoI head.

        Returns:
            The loss as ``loss_mask``, and the ground truth of the boxes as ``mask_targets``.
        """
        if self.class_agnostic or mask_preds.shape[1] == self.num_classes or not len(mask_preds):
            return super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        only = torch.zeros(len(mask_preds), dtype=torch.long, device=mask_preds.device)
        loss = {"loss_mask": self.loss_mask(mask_preds, targets, only)}
        return {"loss_mask": loss, "mask_targets": targets}

    def _predict_by_feat_single(
        self,
        mask_preds: Any,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict[str, Any],
        rcnn_test_cfg: Any,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """Draws the masks of an image at its full size, (N, H, W)."""
        mask_preds = torch.as_tensor(mask_preds, device=bboxes.device)
        if mask_preds.shape[1] == 1:
            labels = torch.zeros_like(labels)
        if bboxes.device.type != "cpu" or is_traced():
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        scale = bboxes.new_tensor(img_meta["scale_factor"]).repeat(2)  # (4,)
        size = np.array(img_meta["ori_shape"][:2])
        if rescale:
            bboxes /= scale  # the boxes of the result, as in the library
        else:
            size = np.round(size * scale[:2].flip(0).double().numpy()).astype(np.int32)
        masks = mask_preds[torch.arange(len(labels)), labels].float()  # (N, h, w)
        if not activate_map:
            masks = masks.sigmoid()
        return draw_masks(masks, bboxes, (int(size[0]), int(size[1])), rcnn_test_cfg.mask_thr_binary)


def draw_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Enlarges the masks of boxes to masks of an image, on a CPU.

    Args:
        masks: (N, h, w) probabilities on the grid of each box.
        boxes: (N, 4), x1, y1, x2, y2 in pixels of the image.
        size: Height H and width W of the image.
        threshold: A pixel belongs to a mask from this probability. With a negative threshold, the probabilities are
            returned.

    Returns:
        (N, H, W) bool, or for a negative threshold uint8 in [0, 255].

    Example:
        >>> import torch
        >>> from xcit_dense.mm.roi_heads import draw_masks
        >>> draw_masks(torch.ones(1, 2, 2), torch.tensor([[1.0, 0, 3, 1]]), (2, 4), 0.5).int().tolist()
        [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    height, width = size
    # NumPy's zeros do not touch the memory of pixels outside of the boxes.
    drawn = torch.from_numpy(np.zeros((len(masks), height, width), dtype=bool if threshold >= 0 else np.uint8))
    x1, y1, x2, y2 = boxes.float()[:, :, None].unbind(1)  # (N, 1)
    columns = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1  # (N, W), from -1 to 1 in the box
    rows = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1  # (N, H)
    columns.masked_fill_(columns.isinf(), 0)
    rows.masked_fill_(rows.isinf(), 0)
    near = (torch.cat([x1, y1], dim=1).floor() - 1).clamp(min=0).int().tolist()
    far = (torch.cat([x2, y2], dim=1).ceil() + 1).int().tolist()
    for mask, x, y, (left, top), (right, bottom), place in zip(masks, columns, rows, near, far, drawn):
        x, y, place = x[left:right], y[top:bottom], place[top:bottom, left:right]
        if not place.numel():
            continue
        grid = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), dim=2)  # (rows, columns, 2)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        if threshold >= 0:
            torch.ge(values, threshold, out=place)
        else:
            place.copy_(values * 255)
    return drawn


@TASK_UTILS.register_module(name="FusedBboxOverlaps2D", force=True)
class FusedBboxOverlaps2D(BboxOverlaps2D):
    """MMDetection's ``BboxOverlaps2D``, faster for many anchors.

    The overlaps of some thousand boxes at a time are computed, so that intermediate values stay in the caches.
    Arguments and results are those of ``BboxOverlaps2D``, to the bit.

    Example:
        >>> import torch
        >>> from xcit_dense.mm.roi_heads import FusedBboxOverlaps2D
        >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2]])
        >>> FusedBboxOverlaps2D()(boxes[:1], boxes).tolist()
        [[1.0, 0.5]]
    """

    def __call__(self, bboxes1: Any, bboxes2: Any, mode: str = "iou", is_aligned: bool = False) -> Tensor:
        """Computes the overlaps of boxes.

        Args:
            bboxes1: (M, 4) corners x1, y1, x2, y2.
            bboxes2: (N, 4) corners.
            mode: ``'iou'``, ``'iof'`` or ``'giou'``.
            is_aligned: Whether box i of the first set is compared with box i of the second set only.

        Returns:
            (M, N) overlaps, or (N,) for aligned boxes.
        """
        second = get_box_tensor(bboxes2)
        if is_aligned or second.device.type != "cpu" or len(second) <= _BOXES_AT_ONCE:
            return super().__call__(bboxes1, bboxes2, mode, is_aligned)
        parts = second.split(_BOXES_AT_ONCE)
        return torch.cat([super(FusedBboxOverlaps2D, self).__call__(bboxes1, part, mode) for part in parts], dim=1)


class _AsksForOneClass:
    """A RoI head that gives :class:`FusedFCNMaskHead` the class of each RoI."""

    def predict_mask(
        self, x: Sequence[Tensor], batch_img_metas: Sequence[Any], results_list: Sequence[Any], rescale: bool = False
    ) -> Sequence[Any]:
        """Finds the masks of detected objects, as the method of the library does."""
        with _masks_of([results.labels for results in results_list]):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)  # type: ignore[misc]


@MODELS.register_module(name="FusedStandardRoIHead", force=True)
class FusedStandardRoIHead(_AsksForOneClass, StandardRoIHead):
    """MMDetection's ``StandardRoIHead``, whose :class:`FusedFCNMaskHead` computes the masks of one class for each RoI.

    Arguments, parameters, outputs and gradients are those of ``StandardRoIHead``, except for rounding. With another
    mask head, or without one, nothing differs from ``StandardRoIHead``.
    """

    def mask_loss(self, x: Sequence[Tensor], sampling_results: Sequence[Any], *rest: Any, **named: Any) -> Any:
        """Computes the loss of masks, as the method of the library does."""
        labels = [result.pos_gt_labels for result in sampling_results] if _reads_one_class(self.mask_head) else None
        with _masks_of(labels):
            return super().mask_loss(x, sampling_results, *rest, **named)


@MODELS.register_module(name="FusedCascadeRoIHead", force=True)
class FusedCascadeRoIHead(_AsksForOneClass, CascadeRoIHead):
    """MMDetection's ``CascadeRoIHead``, whose mask heads compute the masks of one class for each RoI.

    As :class:`FusedStandardRoIHead`, for each stage.
    """

    def mask_loss(
        self, stage: int, x: Sequence[Tensor], sampling_results: Sequence[Any], *rest: Any, **named: Any
    ) -> Any:
        """Computes the loss of the masks of a stage, as the method of the library does."""
        reads = _reads_one_class(self.mask_head[stage])
        labels = [result.pos_gt_labels for result in sampling_results] if reads else None
        with _masks_of(labels):
            return super().mask_loss(stage, x, sampling_results, *rest, **named)


@contextmanager
def _masks_of(labels: Sequence[Tensor] | None) -> Iterator[None]:
    """Lets mask heads compute only the masks of these classes, given for each image."""
    token = _LABELS.set(torch.cat(list(labels)) if labels else None)
    try:
        yield
    finally:
        _LABELS.reset(token)


def _reads_one_class(head: Any) -> bool:
    """Returns whether the loss of a mask head reads only the logits of the class of each box."""
    loss: Any = getattr(head, "loss_mask", None)
    return type(loss) is CrossEntropyLoss and loss.use_mask and loss.class_weight is None


def _is_average(layer: Any) -> bool:
    """Returns whether a call of the layer would run nothing but mmcv's RoIAlign with the average."""
    return plain_type(layer) is RoIAlign and layer.pool_mode == "avg" and not layer.use_torchvision


def _select(x: Tensor, labels: Tensor | None) -> Tensor:
    """Takes the map of one class for each RoI from (N, classes, h, w)."""
    return x if labels is None or x.shape[1] == 1 else x[torch.arange(len(x), device=x.device), labels][:, None]
