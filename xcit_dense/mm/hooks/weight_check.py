"""A check that a checkpoint fills the model."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop

from xcit_dense.mm.runtime.weights import _compare, _refuse, _some
from xcit_dense.weights.read import naming


@HOOKS.register_module(force=True)
class CheckWeightsHook(Hook):
    """Refuses to test a model that its checkpoint does not fill; before a training, says what starts from scratch."""

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Compares the checkpoint with the model, by loading it once more than MMEngine does.

        Args:
            runner: The run. One that resumes is not checked.
            checkpoint: What MMEngine has read.

        Raises:
            UserError: The checkpoint is of an XCiT that does not fit; or the run only tests, and entries are missing,
                unknown or of another shape.
        """
        if runner._resume:
            return
        source = runner._load_from or "the checkpoint"
        with naming(source):
            # A model in shards has names and shapes that no checkpoint has.
            make_whole = getattr(getattr(runner, "strategy", None), "make_whole", None)
            model = make_whole() if make_whole else runner.model
            missing, unknown, reshaped = _compare(model, checkpoint)
            tests = isinstance(runner._test_loop, BaseLoop) or isinstance(runner._val_loop, BaseLoop)
            if tests and not isinstance(runner._train_loop, BaseLoop):
                _refuse(missing, unknown, reshaped)
            else:
                other = f"of another shape in {source}, as other classes make them, and stay as initialised"
                said = [
                    _some(missing, f"not in {source} and stay as initialised"),
                    _some(reshaped, other, 6),
                    _some(unknown, "of its entries have no place"),
                ]
                if any(said):
                    runner.logger.info(f"Weights: {'; '.join(filter(None, said))}.")
