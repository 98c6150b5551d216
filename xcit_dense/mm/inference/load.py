"""Builds the object that predicts from a config and weights: the one way for the command line and for Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xcit_dense.inference.model import Model
from xcit_dense.mm.config.checks import check_config
from xcit_dense.mm.config.load import load_config
from xcit_dense.mm.inference.predict import join, make_predictor
from xcit_dense.mm.inference.window_engine import MMWindowEngine, use_native_size


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
    loaded = _load(config, options, launcher, bands)
    return Model(make_predictor(loaded, weights, verbose, device))


def load_window_engine(
    config: Path,
    weights: str,
    options: dict[str, Any] | None = None,
    *,
    scale: float = 1.0,
    device: str | None = None,
    launcher: str = "none",
    verbose: bool = False,
    bands: dict[str, Any] | None = None,
) -> MMWindowEngine:
    """As :func:`load_model`, for prediction by windows (:mod:`xcit_dense.inference.windows`).

    Args:
        config: As for :func:`load_model`.
        weights: As for :func:`load_model`.
        options: As for :func:`load_model`.
        scale: The size of what the model sees over the size of the window.
        device: As for :func:`load_model`.
        launcher: As for :func:`load_model`.
        verbose: As for :func:`load_model`.
        bands: As for :func:`load_model`.

    Returns:
        The model, deployed.

    Raises:
        UserError: As for :func:`load_model`.
    """
    loaded = _load(config, options, launcher, bands)
    use_native_size(loaded)
    return MMWindowEngine(make_predictor(loaded, weights, verbose, device), loaded, scale)


def _load(config: Path, options: dict[str, Any] | None, launcher: str, bands: dict[str, Any] | None) -> Any:
    """Reads and checks a config, and joins the processes."""
    loaded = load_config(config, options, **(bands or {}))
    loaded.launcher = launcher
    check_config(loaded, ())
    join(launcher)
    return loaded
