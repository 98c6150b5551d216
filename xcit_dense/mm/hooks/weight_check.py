"""A hook that checks whether a checkpoint fills the model."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop

from xcit_dense.mm.runtime.weights import (
    Differences,
    LoadObserver,
    check_backbones,
    list_some,
    load_and_compare,
    spread_backbone,
)
from xcit_dense.weights.read import naming


@HOOKS.register_module(force=True)
class CheckWeightsHook(Hook):
    """Refuses to test or resume a model that its checkpoint does not fill. Logs which weights of a training are random.

    A checkpoint of a single XCiT is loaded into each XCiT of the model. A resumed training of a model in shards is not
    checked.
    """

    def __init__(self) -> None:
        self._observer: LoadObserver | None = None

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Checks the backbone and observes the load. MMEngine calls this method before it loads the checkpoint.

        Args:
            runner: The run.
            checkpoint: The content of the checkpoint, as MMEngine reads it.

        Raises:
            UserError: The checkpoint is of an XCiT that does not fit; or the run only tests a model in shards, and
                the checkpoint does not fill the model.
        """
        # The names and shapes of a model in shards are not those of a checkpoint.
        make_unsharded = getattr(getattr(runner, "strategy", None), "make_unsharded", None)
        if runner._resume:
            self._observer = None if make_unsharded else LoadObserver(runner.model, checkpoint)
            return
        model = make_unsharded() if make_unsharded else runner.model
        with naming(_source(runner)):
            spread_backbone(model, checkpoint)
            check_backbones(model, checkpoint)
        if make_unsharded:
            _judge(runner, load_and_compare(model, checkpoint))
        else:
            self._observer = LoadObserver(model, checkpoint)

    def before_train(self, runner: Any) -> None:
        """Judges the load.

        Args:
            runner: The run.

        Raises:
            UserError: The run resumes, and the checkpoint does not fill the model.
        """
        self._finish(runner)

    def before_val(self, runner: Any) -> None:
        """Judges the load of a run that only validates.

        Args:
            runner: The run.

        Raises:
            UserError: The checkpoint does not fill the model.
        """
        self._finish(runner)

    def before_test(self, runner: Any) -> None:
        """Judges the load of a run that only tests.

        Args:
            runner: The run.

        Raises:
            UserError: The checkpoint does not fill the model.
        """
        self._finish(runner)

    def _finish(self, runner: Any) -> None:
        observer, self._observer = self._observer, None
        differences = observer.finish() if observer else None
        if differences:
            _judge(runner, differences)


def _source(runner: Any) -> str:
    return runner._load_from or "the checkpoint"


def _judge(runner: Any, differences: Differences) -> None:
    """Refuses an incomplete checkpoint in a test or a resume. In a new training, logs the differences in one line."""
    source = _source(runner)
    is_test = isinstance(runner._test_loop, BaseLoop) or isinstance(runner._val_loop, BaseLoop)
    if runner._resume or (is_test and not isinstance(runner._train_loop, BaseLoop)):
        with naming(source):
            differences.check_complete()
        return
    other_shape = f"of another shape in {source}, as other classes make them, and stay as initialised"
    notes = [
        list_some(differences.missing, f"not in {source} and stay as initialised"),
        list_some(differences.reshaped, other_shape, 6),
        list_some(differences.unknown, "of its entries have no place"),
    ]
    if any(notes):
        runner.logger.info(f"Weights: {'; '.join(filter(None, notes))}.")
