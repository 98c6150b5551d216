"""``xcit_dense.load``: from the name of a model to the object that predicts."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

from xcit_dense.cli.options import find_checkpoint
from xcit_dense.cli.positionals import is_exported
from xcit_dense.cli.shipped_configs import find_config, is_config
from xcit_dense.errors import UserError
from xcit_dense.inference.model import Model, open_exported

_LOADING = Lock()  # MMEngine's registries and loggers are global


def load(
    what: str | Path,
    config: str | Path | None = None,
    *,
    device: str | None = None,
    options: dict[str, Any] | None = None,
) -> Model:
    """Loads a trained detector or segmentor that predicts from Python.

    The predictions equal those of ``xcit-dense predict``. The model is prepared for inference
    (:func:`xcit_dense.deploy`). Nothing is printed.

    Args:
        what: One of:

            - the work directory of a training, a checkpoint, a saved model, a published name such as
              ``'coco/small_12_p16'``, or ``'hf://USER/REPOSITORY'``
              (:func:`xcit_dense.weights.locate.locate_model`);
            - any weights, with ``config``;
            - a file of ``xcit-dense export``: ``.onnx`` or ``.xml``. It needs neither the MM libraries nor PyTorch.
        config: The config of the weights: a file, or the name of a shipped config. By default the config that the
            weights lead to.
        device: ``'cpu'``, ``'cuda'`` or ``'cuda:1'``. By default a GPU if there is one.
        options: Values by dotted key that override the values of the config, as ``--cfg-options`` does. For example
            ``{"model.test_cfg.rcnn.max_per_img": 20}``.

    Returns:
        The model. Its method :meth:`xcit_dense.inference.model.Model.predict` takes paths, images, lists, directories
        and videos.

    Raises:
        UserError: There is no such model, the weights do not lead to a config or do not fill its model, or the device
            does not exist.
        MissingLibraryError: The MM libraries are not installed.

    Example::

        import xcit_dense

        model = xcit_dense.load("work_dirs/mine")
        found = model.predict("street.jpg", score_thr=0.5)
        print(found.names, found.xyxy)
        found.save("found.jpg")
    """
    text = str(what)
    if is_exported(text):
        if config is not None or device is not None or options is not None:
            raise UserError(f"{text} is an exported model, which has no config, device or options; leave them out.")
        return open_exported(text)
    path, weights = _locate(text, config)
    _check_device(device)

    import xcit_dense.mm  # noqa: F401  # isort: skip
    from mmengine.logging import MMLogger

    from xcit_dense.mm.inference.load import load_model
    from xcit_dense.mm.runtime.console import silent

    with _LOADING, silent(MMLogger.get_current_instance()):
        return load_model(path, weights, options, device=device, verbose=True)


def _locate(text: str, config: str | Path | None) -> tuple[Path, str]:
    """Finds the config and the weights of a model."""
    if config is not None:
        return find_config(config), find_checkpoint(text)
    if is_config(text):
        raise UserError(f"{text} is a config; write the weights first: load(WEIGHTS, config={text!r}).")
    from xcit_dense.weights.locate import locate_model  # imports torch

    model = locate_model(text)
    return model.config, find_checkpoint(model.weights)


def _check_device(device: str | None) -> None:
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"device={device!r} is not available ({reason}); write 'cpu', or leave device out.") from error
