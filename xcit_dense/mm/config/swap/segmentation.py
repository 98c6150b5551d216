"""Fits the neck and the heads of a segmentor of MMSegmentation to an XCiT."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict

from xcit_dense.errors import UserError


def adapt_segmentor(config: Config, model: ConfigDict, backbone: ConfigDict) -> None:
    """Puts an XCiT into a segmentor, and fits the neck and the heads to the XCiT.

    Args:
        config: The complete config.
        model: The model, which is changed. Its ``backbone`` is the old one.
        backbone: The config of the XCiT, without ``out_strides``.

    Raises:
        UserError: Always. Segmentors follow.
    """
    raise UserError("Segmentors follow.")
