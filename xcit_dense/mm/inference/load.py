"""Builds the object that predicts from a config and weights: the one way for the command line and for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xcit_dense.inference.model import Model
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.inference.predict import join, make_predictor


def load_model(
    config: Path,
    weights: str,
    options: dict[str, Any] | None = None,
    *,
    device: str | None = None,
    launcher: str = "none",
    verbose: bool = False,
    bands: dict[str, Any] | None = None,
) -> Model:
    """Reads and checks a config, and builds its model with its weights.

    Args:
        config: The config file.
        weights: The path or address of a checkpoint.
        options: Values by dotted key. They override the values of the config.
        device: As for :func:`xcit_dense.mm.inference.predict.make_predictor`.
        launcher: What has started the processes that predict together: ``'none'`` or ``'pytorch'``.
        verbose: Print what MMEngine logs while it builds the model.
        bands: The arguments ``bands``, ``draw_bands`` and ``normalize`` of
            :func:`xcit_dense.mm.config.load.load_config`.

    Returns:
        The model, deployed.

    Raises:
        UserError: The config does not fit, or the weights cannot be read or are incomplete.
    """
    loaded = load_config(config, options, **(bands or {}))
    loaded.launcher = launcher
    check_config(loaded, ())
    join(launcher)
    return Model(make_predictor(loaded, weights, verbose, device))
