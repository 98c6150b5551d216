"""A detector with random weights that finds a given number of objects."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from mmengine.config import Config

from xcit_dense.errors import UserError
from xcit_dense.mm.benchmark.options import ModelOptions
from xcit_dense.mm.benchmark.samples import Batch
from xcit_dense.mm.benchmark.steps import predict


def limit_instances(config: Config, make: Callable[[Config], Any], batch: Batch, options: ModelOptions) -> Config:
    """Returns a copy of a config whose detector finds as many objects as the options say.

    The threshold of the scores becomes the score that this number of objects has. With a lower threshold, all classes
    of all regions would pass, and the suppression of overlapping boxes would take longer than with trained weights.

    Args:
        config: The config of a detector.
        make: Makes the detector of a config.
        batch: The images.
        options: The number of objects.

    Raises:
        UserError: The model does not have a threshold, or finds fewer objects.
    """
    wanted = options.instances
    settings = _settings(config := deepcopy(config))
    if wanted is None or settings is None:
        raise UserError("--instances needs a detector with a threshold of scores; leave --instances out.")
    settings.update(score_thr=0.0, max_per_img=wanted)
    found = [sample.pred_instances.scores for sample in predict(make(config).eval(), batch, options)]
    least = min(len(scores) for scores in found)
    if least < wanted:
        raise UserError(f"The detector finds only {least} objects in an image; write --instances {least} or less.")
    # Rounding must not decide whether the last object passes.
    settings.score_thr = 0.999 * min(float(scores.min()) for scores in found)
    return config


def _settings(config: Config) -> Any:
    """Returns the test settings with the threshold of a detector's scores, or None."""
    test = config.model.get("test_cfg") or {}
    settings = test.get("rcnn", test)
    return settings if config.default_scope == "mmdet" and "score_thr" in settings else None
