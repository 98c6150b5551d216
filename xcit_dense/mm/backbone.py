"""Registers the backbones for MMDetection and MMSegmentation."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from torch import nn

from xcit_dense.mm.distributed import resolve_once
from xcit_dense.mm.registration import check_arguments, register_model
from xcit_dense.models import coat, token_pyramid, xcit
from xcit_dense.models.backbone import Backbone
from xcit_dense.models.pretrained import load_weights

Class = TypeVar("Class", bound=type[nn.Module])


class _MMBackbone:
    """What a backbone gains in the MM libraries: the argument ``init_cfg``, and messages in the log of the run."""

    init_cfg: Any
    is_init: bool

    def __init__(self, *args: Any, init_cfg: Any = None, **kwargs: Any) -> None:
        classes = type(self).__mro__
        plain = classes[classes.index(_MMBackbone) + 1]  # the class without init_cfg
        check_arguments(type(self).__name__, plain, kwargs)
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Initialises the weights as ``init_cfg`` asks. Only the first call has an effect.

        Raises:
            UserError: The checkpoint does not exist, or is not of this variant.
        """
        pretrained = isinstance(self.init_cfg, dict) and self.init_cfg.get("type") == "Pretrained"
        if not pretrained or self.is_init:
            super().init_weights()  # type: ignore[misc]
            return
        assert isinstance(self, Backbone)
        address = self.init_cfg["checkpoint"]
        report = load_weights(self, resolve_once(address), adapt=True)
        print_log(f"{self.kind} starts from {address}: {report.outcome}.", logger="current", level=logging.INFO)
        if hasattr(self, "_params_init_info"):
            update_init_info(self, init_info=f"loaded from {address}, or unchanged if not in it")
        self._is_init = True

    def log(self, level: int, text: str) -> None:
        """Writes a message about a checkpoint to the log of the run.

        Args:
            level: As in :mod:`logging`.
            text: The message.
        """
        print_log(text, logger="current", level=level)


def register_backbone(backbone: Class) -> Class:
    """Registers a backbone for MMEngine and for each of MMDetection and MMSegmentation that is installed.

    Args:
        backbone: A subclass of :class:`xcit_dense.models.backbone.Backbone`.

    Returns:
        A subclass with the same name. It has the argument ``init_cfg`` of MM modules. ``dict(type='Pretrained',
        checkpoint=...)`` accepts every text that :func:`xcit_dense.weights.resolve.resolve` accepts: a file, an
        address, or ``xcit://NAME``. The weights of the stem are adapted if ``in_channels`` differs
        (:func:`xcit_dense.models.loading.adapt_channels`); the log reports it.
    """
    name = backbone.__name__
    own = {"__doc__": backbone.__doc__, "__module__": backbone.__module__, "__qualname__": backbone.__qualname__}
    registered: Any = type(name, (_MMBackbone, backbone, BaseModule), own)
    register_model(registered)
    return registered


@register_backbone
class XCiT(xcit.XCiT):
    """:class:`xcit_dense.XCiT` with the argument ``init_cfg`` of MM modules (:func:`register_backbone`)."""


@register_backbone
class TokenPyramid(token_pyramid.TokenPyramid):
    """:class:`xcit_dense.TokenPyramid` with the argument ``init_cfg`` of MM modules (:func:`register_backbone`)."""


@register_backbone
class CoaT(coat.CoaT):
    """:class:`xcit_dense.CoaT` with the argument ``init_cfg`` of MM modules (:func:`register_backbone`)."""
