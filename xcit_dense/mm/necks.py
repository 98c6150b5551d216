"""Registers the neck VT-FPN for MMDetection and MMSegmentation."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS

from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.models import vt_fpn


class VTFPN(vt_fpn.VTFPN, BaseModule):
    """:class:`xcit_dense.models.vt_fpn.VTFPN` with the argument ``init_cfg`` of MM modules.

    Args:
        *args: As for :class:`xcit_dense.models.vt_fpn.VTFPN`.
        init_cfg: The initialisation. By default the neck keeps its own initialisation.
        **kwargs: As for :class:`xcit_dense.models.vt_fpn.VTFPN`.

    Raises:
        UserError: As for :class:`xcit_dense.models.vt_fpn.VTFPN`, or an argument is unknown.
    """

    def __init__(self, *args: Any, init_cfg: Any = None, **kwargs: Any) -> None:
        known = signature(vt_fpn.VTFPN).parameters
        for name in kwargs:
            if name not in known:
                raise UserError(did_you_mean("argument of VTFPN", name, [*known, "init_cfg"]))
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg


def register() -> None:
    """Registers :class:`VTFPN` for MMEngine and for each of MMDetection and MMSegmentation that is installed."""
    MODELS.register_module(name="VTFPN", module=VTFPN, force=True)
    for library in ("mmdet", "mmseg"):
        if find_spec(library) is not None:
            import_module(f"{library}.registry").MODELS.register_module(name="VTFPN", module=VTFPN, force=True)


register()
