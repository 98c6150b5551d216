"""The logits and the labels of a segmentor, window by window."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from xcit_dense.errors import UserError
from xcit_dense.mm.config.libraries import prints_logged

with prints_logged():
    from mmseg.models.data_preprocessor import SegDataPreProcessor
    from mmseg.models.decode_heads import FPNHead, UPerHead
    from mmseg.models.segmentors import EncoderDecoder

from xcit_dense.mm.heads import FusedFPNHead, FusedUPerHead
from xcit_dense.mm.segmentors import FusedEncoderDecoder
from xcit_dense.mm.streaming.heads import classify, map_features, map_levels
from xcit_dense.mm.streaming.layers import NeedsCompleteMapError, describe
from xcit_dense.mm.streaming.training import ShardedEncoderDecoder
from xcit_dense.ops.layers import plain_type
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.bands import ONE_BAND, Bands
from xcit_dense.streaming.maps import Enlarge, Levels, Map


def map_logits(model: Any, levels: Levels, height: int, width: int, bands: Bands = ONE_BAND) -> Map:
    """Makes the map of the logits of an image, in the size of the image.

    The map has the values of ``model.predict`` for the complete image, except for rounding. No level is read before
    the map is read.

    Args:
        model: An ``EncoderDecoder``, ``FusedEncoderDecoder`` or ``ShardedEncoderDecoder`` in evaluation mode, deployed
            or not: without a neck or with the neck ``FPN`` or ``VTFPN``, and with the head ``FPNHead``,
            ``FusedFPNHead``, ``UPerHead`` or ``FusedUPerHead``.
        levels: The levels of the model's backbone for the image.
        height: The height of the image in pixels.
        width: The width of the image in pixels.
        bands: The processes that share the image. By default, this process has the complete image.

    Returns:
        The map (1, classes, height, width). A model of two classes may have one logit.

    Raises:
        UserError: A part of the model cannot be computed by windows. The message names the part.
    """
    head, name = model.decode_head, "model.decode_head"
    try:
        _check_segmentor(model)
        features = map_features(head, map_levels(model, levels, bands), name, bands)
        logits = classify(head, features, name)
        if head.dropout is not None and head.dropout.training:
            raise NeedsCompleteMapError(f"{name}.dropout is in training mode")
    except NeedsCompleteMapError as fault:
        raise UserError(
            f"{fault}, which cannot be computed by --stream; predict by windows: write --window 1024."
        ) from None
    return Enlarge(logits, height, width, align_corners=head.align_corners)


def read_labels(model: Any, logits: Map, window: Window) -> Tensor:
    """Computes the labels of a window of an image, as ``model.predict`` does for the complete image.

    Args:
        model: The segmentor.
        logits: The map of :func:`map_logits`.
        window: The window, (h, w) pixels.

    Returns:
        (h, w), int64.
    """
    found = logits.read(window)  # (1, classes, h, w)
    if found.shape[1] > 1:
        return found[0].argmax(dim=0)  # the memory is channels-last, so that argmax reads it in order
    return (found[0, 0].sigmoid() > model.decode_head.threshold).long()


def _check_segmentor(model: Any) -> None:
    kind = plain_type(model)
    if kind not in (EncoderDecoder, FusedEncoderDecoder, ShardedEncoderDecoder):
        what = "has a hook" if kind is None else f"is a {kind.__name__}, and not an EncoderDecoder"
        raise NeedsCompleteMapError(f"The model {what}")
    mode = model.test_cfg.get("mode", "whole")
    if mode != "whole":
        raise UserError(
            f"model.test_cfg.mode is {mode!r}, and --stream computes the complete image; write --window 1024, or "
            "--cfg-options model.test_cfg.mode=whole."
        )
    prepare = model.data_preprocessor
    if plain_type(prepare) is not SegDataPreProcessor:
        raise NeedsCompleteMapError(f"model.data_preprocessor is a {type(prepare).__name__}")
    if prepare.test_cfg:
        raise NeedsCompleteMapError(f"model.data_preprocessor pads images in tests (test_cfg={dict(prepare.test_cfg)})")
    if plain_type(model.decode_head) not in (FPNHead, FusedFPNHead, UPerHead, FusedUPerHead):
        raise NeedsCompleteMapError(f"model.decode_head {describe(model.decode_head)}")
    for part in ("neck", "decode_head"):
        for name, module in getattr(model, part).named_modules() if hasattr(model, part) else ():
            if isinstance(module, _BatchNorm) and module.training:
                raise UserError(
                    f"model.{part}.{name} is a batch norm in training mode, which needs the complete map; call "
                    "model.eval() first."
                )
