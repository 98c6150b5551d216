"""Faster convolutions in necks and heads."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from xcit_dense.ops.winograd_conv import use_winograd


@HOOKS.register_module(force=True)
class WinogradHook(Hook):
    """Lets 3 x 3 convolutions multiply less on the CPU (:func:`xcit_dense.ops.winograd_conv.use_winograd`).

    The hook changes the types of layers, and no weights. Outputs and gradients stay the same, except for rounding. On
    other devices the layers compute what they computed before.

    Example:
        custom_hooks = [dict(type="WinogradHook")]
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Any) -> None:
        """Exchanges the layers."""
        use_winograd(runner.model)
