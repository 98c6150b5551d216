"""The segmentor whose training steps divide each image over all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.errors import UserError
from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmseg.models.losses import CrossEntropyLoss
    from mmseg.registry import MODELS
    from mmseg.utils import add_prefix

from xcit_dense.mm.necks import VTFPN
from xcit_dense.mm.segmentors import FusedEncoderDecoder
from xcit_dense.mm.streaming.heads import classify, map_features, map_levels
from xcit_dense.mm.streaming.layers import NeedsCompleteMapError, describe
from xcit_dense.ops.layers import plain_type
from xcit_dense.streaming.band_loss import sum_over_rows
from xcit_dense.streaming.band_maps import BandLevels, bring_source, compute_band
from xcit_dense.streaming.exchange import Group, all_reduced, draw_once
from xcit_dense.streaming.maps import Apply, Enlarge, Map
from xcit_dense.streaming.rows import TensorRows
from xcit_dense.streaming.shard import sharded_levels
from xcit_dense.streaming.sweeps import count_tokens

_TINY = torch.finfo(torch.float32).eps  # as in the library: images without labels have the loss 0


@MODELS.register_module(name="ShardedEncoderDecoder", force=True)
class ShardedEncoderDecoder(FusedEncoderDecoder):
    """A ``FusedEncoderDecoder`` whose training steps divide each image over all processes of a run.

    Each process computes a band of rows of each image, so an image may be larger than the memory of one GPU. Losses,
    gradients and running statistics are those of one process with the same images, except for rounding. All processes
    must have the same images: ``xcit-dense train`` takes care of this. In a run of one process, and in predictions, the
    model is a ``FusedEncoderDecoder``.

    The backbone is an XCiT with ``norm_eval=True``, the neck is ``FPN`` or missing, and heads are ``FPNHead``,
    ``UPerHead`` and ``FCNHead``, fused or not, with cross entropy. Other parts are errors at the first step.

    Example::

        torchrun --nproc-per-node 2 -m xcit_dense train sem_fpn_xcit_s12 --launcher pytorch \
            --cfg-options model.type=ShardedEncoderDecoder model.backbone.norm_eval=True
    """

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Computes the losses of the complete images.

        Args:
            inputs: Normalised images (B, C, H, W), the same in each process.
            data_samples: The ground truth of each image.

        Returns:
            The losses and accuracies by their names, the same in each process. The gradient of a loss in a process is
            the number of processes times the part of this process, for ``DistributedDataParallel``, which averages.

        Raises:
            UserError: A part of the model cannot be divided. The processes have different images. An image has too
                few rows for the number of processes.
        """
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().loss(inputs, data_samples)
        if self.with_neck and plain_type(self.neck) is VTFPN:
            raise _cannot_train("model.neck is a VTFPN")
        group = _own_group(distributed.group.WORLD)
        heads = list(_list_heads(self))
        for _, name, head in heads:
            _check_head(name, head, len(inputs))
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])  # (B, H, W)
        _check_same(inputs, labels, group)
        levels = self._compute_levels(inputs, group)
        logits = []
        try:
            maps = map_levels(self, levels)
            for _, name, head in heads:
                features = map_features(head, maps, name)
                if head.dropout is not None:
                    features = Apply(features, partial(_drop_channels, head.dropout, group), features.channels)
                logits.append(classify(head, features, name))
        except NeedsCompleteMapError as fault:
            raise _cannot_train(str(fault)) from None
        losses: dict[str, Tensor] = {}
        for (prefix, _, head), node, of_band in zip(heads, logits, compute_band(levels, *logits)):
            losses.update(add_prefix(_compute_losses(head, levels, node, of_band, labels), prefix))
        return losses

    def _compute_levels(self, inputs: Tensor, group: Group) -> BandLevels:
        """Computes the levels of the band of this process, one image after the other."""
        bands = [sharded_levels(self.backbone, image[None], group) for image in inputs]
        height, width = count_tokens(TensorRows(inputs[:1]), self.backbone.patch_size)
        values = [torch.cat(parts) for parts in zip(*(band.levels for band in bands))]
        return BandLevels(self.backbone, values, height, width, group)


@lru_cache(maxsize=1)
def _own_group(_: Any) -> Group:
    """Makes a group of all processes, once. The exchange does not mix with the buckets of DistributedDataParallel."""
    return distributed.new_group()


def _list_heads(model: Any) -> Iterator[tuple[str, str, Any]]:
    """Yields the prefix of the losses, the name in the config and the module of each head."""
    yield "decode", "model.decode_head", model.decode_head
    if not model.with_auxiliary_head:
        return
    if not isinstance(model.auxiliary_head, nn.ModuleList):
        yield "aux", "model.auxiliary_head", model.auxiliary_head
        return
    for number, head in enumerate(model.auxiliary_head):
        yield f"aux_{number}", f"model.auxiliary_head.{number}", head


def _cannot_train(what: str) -> UserError:
    return UserError(
        f"{what}, which cannot be trained with an image over several processes; write --cfg-options "
        "model.type=FusedEncoderDecoder, so that each process trains on images of its own."
    )


def _check_head(name: str, head: Any, images: int) -> None:
    if head.dropout is not None and plain_type(head.dropout) is not nn.Dropout2d:
        raise _cannot_train(f"{name}.dropout {describe(head.dropout)}")
    if head.sampler is not None:
        raise _cannot_train(f"{name}.sampler is a {type(head.sampler).__name__}")
    for loss in _losses_of(head):
        kind = type(loss).__name__
        if plain_type(loss) is not CrossEntropyLoss or loss.use_mask or loss.reduction != "mean":
            raise _cannot_train(f"{name}.loss_decode is a {kind} that is not the mean cross entropy of pixels")
        if loss.use_sigmoid and (head.out_channels > 1 or loss.class_weight is not None):
            raise _cannot_train(f"{name}.loss_decode has use_sigmoid=True with several logits or weights of classes")
    for part, module in head.named_modules():
        other = getattr(module, "process_group", None)
        if other is not None and other is not distributed.group.WORLD:
            raise _cannot_train(f"{name}.{part} is a SyncBN over a group of processes")
    pyramid = getattr(head, "psp_modules", nn.Module())
    pools = 1 in getattr(pyramid, "pool_scales", ())
    if images == 1 and pools and any(isinstance(part, _BatchNorm) and part.training for part in pyramid.modules()):
        raise UserError(
            f"{name} has a batch norm behind its 1 x 1 pooling, which gets a single value from one image; write "
            "--batch 2 or more."
        )


def _losses_of(head: Any) -> list[Any]:
    return [*head.loss_decode] if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]


def _check_same(inputs: Tensor, labels: Tensor, group: Group) -> None:
    """Checks that all processes have the same images and labels, by sums that depend on the places of the pixels."""
    marks = [torch.tensor(inputs.shape, dtype=torch.float64, device=inputs.device)]
    for x in (inputs.flatten(0, 1), labels):  # (n, H, W)
        for side in (1, 2):
            sums = x.sum([0, 3 - side], dtype=torch.float64)  # over all but one side
            marks.append((sums @ torch.linspace(1, 2, len(sums)).to(sums))[None])
    found = torch.cat(marks)
    largest = torch.stack((found, -found))
    distributed.all_reduce(largest, distributed.ReduceOp.MAX, group)
    if not torch.allclose(largest[0], -largest[1], rtol=1e-6, atol=1e-6, equal_nan=True):
        raise UserError(
            "The processes of this training have different images, but model.type=ShardedEncoderDecoder divides each "
            "image over all processes; start the training with xcit-dense train, and keep "
            "dict(type='ReproducibleHook') in custom_hooks."
        )


def _drop_channels(dropout: nn.Module, group: Group, x: Tensor) -> Tensor:
    """Applies a dropout of channels to a band (B, C, rows, W). The first process draws."""
    if not dropout.training:
        return x
    return x * draw_once(dropout(x.new_ones(*x.shape[:2], 1, 1)), group)


def _compute_losses(head: Any, levels: BandLevels, logits: Map, of_band: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Computes what ``loss_by_feat`` of the head computes for the complete images.

    Args:
        head: The head.
        levels: The levels of the band.
        logits: The map of the logits.
        of_band: The rows of this process of the logits, (B, classes, rows, w).
        labels: (B, H, W), the labels of the complete images.
    """
    height, width = labels.shape[1:]
    enlarge = Enlarge(logits, height, width, align_corners=head.align_corners)
    part, have = bring_source(levels, enlarge, 0, of_band)
    rows = levels.bands.own_rows(height)
    counted = labels != head.ignore_index
    found: dict[str, Tensor] = {}
    for loss in _losses_of(head):
        if loss.use_sigmoid and labels.where(counted, 0).max() > 1:
            raise UserError("A head with one logit needs the labels 0 and 1, but the images have others.")
        of_rows = partial(_sum_losses, loss, labels, head.ignore_index)
        total, correct = sum_over_rows(enlarge, part, have, rows, of_rows)
        value = loss.loss_weight * levels.bands.sum(total) / (_count(loss, labels, counted) + _TINY)
        found[loss.loss_name] = found[loss.loss_name] + value if loss.loss_name in found else value
        correct = all_reduced(correct, levels.bands.group)
        found["acc_seg"] = (100 * (correct + _TINY) / (counted.sum() + _TINY)).reshape(1)
    return found


def _sum_losses(loss: Any, labels: Tensor, ignore: int, logits: Tensor, rows: range) -> tuple[Tensor, Tensor]:
    """Sums the losses of the pixels of some rows, and counts the pixels with the right label."""
    labels = labels[:, rows.start : rows.stop]  # (B, n, W)
    counted = labels != ignore
    correct = ((logits.detach().argmax(1) == labels) & counted).sum()
    if loss.use_sigmoid:
        targets = labels.where(counted, 0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], targets, reduction="none")
        return (losses * counted).sum(), correct
    weight = None if loss.class_weight is None else logits.new_tensor(loss.class_weight)
    return F.cross_entropy(logits, labels, weight, ignore_index=ignore, reduction="sum"), correct


def _count(loss: Any, labels: Tensor, counted: Tensor) -> Tensor | int:
    """Returns what the library divides the sum of the losses of the complete images by."""
    if loss.class_weight is not None:
        return torch.tensor(loss.class_weight, device=labels.device)[labels[counted]].sum()
    return counted.sum() if loss.avg_non_ignore else labels.numel()
