"""Deploys the backbone before a test."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS

from xcit_dense.inference.deploy import deploy
from xcit_dense.models.backbone import Backbone


@HOOKS.register_module(force=True)
class DeployHook(Hook):
    """Deploys each XCiT of a model before a test (:func:`xcit_dense.deploy`): the same outputs in less time.

    The hook does nothing if the run has an ``EMAHook``, because that hook exchanges the weights before and after the
    test.
    """

    def before_test(self, runner: Any) -> None:
        """Deploys the backbone. The checkpoint is already loaded."""
        has_averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if not has_averages and any(isinstance(module, Backbone) for module in runner.model.modules()):
            deploy(runner.model.eval())
