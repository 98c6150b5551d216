"""Evaluation of batches whose images have several sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor

from xcit_dense.mm.distributed import unwrap_model


class SameSizeBatchesHook(Hook):
    """Lets a model predict images of one size at a time in validations and tests.

    MMDetection pads the smaller images of a batch, and an XCiT attends to the padding, so the metric would depend on
    the batch size. MMSegmentation refuses a batch of several sizes. With this hook, the metric of any batch size is the
    metric of batch size 1.

    :func:`xcit_dense.mm.runtime.launch.make_runner` adds this hook; configs do not contain it.

    A validation of a model in shards (FSDP) is not changed, because all processes must call such a model equally often.
    """

    def before_val(self, runner: Any) -> None:
        """Wraps the method ``val_step`` of the model."""
        _wrap(runner, "val_step")

    def after_val(self, runner: Any) -> None:
        """Restores the method."""
        _unwrap(runner, "val_step")

    def before_test(self, runner: Any) -> None:
        """Wraps the method ``test_step`` of the model, also inside test-time augmentation."""
        _wrap(runner, "test_step")

    def after_test(self, runner: Any) -> None:
        """Restores the method."""
        _unwrap(runner, "test_step")


def _wrap(runner: Any, name: str) -> None:
    model = unwrap_model(runner.model)
    vars(model)[name] = partial(predict_by_size, getattr(model, name))


def _unwrap(runner: Any, name: str) -> None:
    vars(unwrap_model(runner.model)).pop(name, None)


def predict_by_size(predict: Callable[[Any], Any], batch: Any) -> Any:
    """Predicts the images of a batch, those of one size at a time.

    Args:
        predict: The method ``val_step`` or ``test_step`` of a model.
        batch: Lists by name, as MMEngine's ``pseudo_collate`` makes them. ``'inputs'`` is a list of B images
            (3, H, W) of any sizes. Other batches go to ``predict`` unchanged.

    Returns:
        The B predictions, in the order of the images.
    """
    images = batch.get("inputs") if isinstance(batch, dict) else None
    if not isinstance(images, list | tuple) or not all(isinstance(image, Tensor) for image in images):
        return predict(batch)
    places: dict[Any, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.shape, []).append(place)
    if len(places) < 2:
        return predict(batch)
    found: list[Any] = [None] * len(images)
    for chosen in places.values():
        part = {
            key: [values[place] for place in chosen] if isinstance(values, list | tuple) else values
            for key, values in batch.items()
        }
        for place, prediction in zip(chosen, predict(part), strict=True):
            found[place] = prediction
    return found
