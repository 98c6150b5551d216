"""Registers the backbone for MMDetection and MMSegmentation."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.registry import MODELS

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.mm.distributed import resolve_once
from xcit_dense.models import xcit as backbone
from xcit_dense.models.pretrained import load_weights


class XCiT(backbone.XCiT, BaseModule):
    """:class:`xcit_dense.XCiT` with the argument ``init_cfg`` of MM modules.

    Args:
        *args: As for :class:`xcit_dense.XCiT`.
        init_cfg: The initialisation. ``dict(type='Pretrained', checkpoint=...)`` accepts every text that
            :func:`xcit_dense.weights.resolve.resolve` accepts: a file, an address, or ``xcit://NAME``. The weights of
            the stem are adapted if ``in_channels`` differs
            (:func:`xcit_dense.models.state_dict.adapt_input`); the log reports it.
        **kwargs: As for :class:`xcit_dense.XCiT`.

    Raises:
        UserError: As for :class:`xcit_dense.XCiT`.
    """

    def __init__(self, *args: Any, init_cfg: Any = None, **kwargs: Any) -> None:
        known = signature(backbone.XCiT).parameters
        for name in kwargs:
            if name not in known:
                raise UserError(did_you_mean("argument of XCiT", name, [*known, "init_cfg"]))
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg

    def init_weights(self) -> None:
        """Initialises the weights as ``init_cfg`` asks. Only the first call has an effect.

        Raises:
            UserError: The checkpoint does not exist, or is not of this variant.
        """
        pretrained = isinstance(self.init_cfg, dict) and self.init_cfg.get("type") == "Pretrained"
        if not pretrained or self.is_init:
            super().init_weights()
            return
        address = self.init_cfg["checkpoint"]
        report = load_weights(self, resolve_once(address), adapt=True)
        print_log(f"XCiT starts from {address}: {report.outcome}.", logger="current", level=logging.INFO)
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


def register() -> None:
    """Registers :class:`XCiT` for MMEngine and for each of MMDetection and MMSegmentation that is installed."""
    MODELS.register_module(name="XCiT", module=XCiT, force=True)
    for library in ("mmdet", "mmseg"):
        if find_spec(library) is not None:
            import_module(f"{library}.registry").MODELS.register_module(name="XCiT", module=XCiT, force=True)


register()
