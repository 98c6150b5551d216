"""Registers the neck VT-FPN for MMDetection and MMSegmentation."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule

from xcit_dense.mm.registration import check_arguments, register_model
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
        check_arguments("VTFPN", vt_fpn.VTFPN, kwargs)
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg


register_model(VTFPN)
