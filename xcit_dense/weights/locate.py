"""Turns the text that names a complete model into its config and its weights. Every command uses this resolver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xcit_dense.errors import UserError, nearest
from xcit_dense.utils.configs import config_in, find_shipped, shipped_configs
from xcit_dense.weights.resolve import check, nearest_path, resolve
from xcit_dense.weights.saved import WEIGHTS, read_description, read_model_config, short_name
from xcit_dense.weights.work_dir import last_intact_checkpoint
from xcit_dense.weights.zoo import HUB, SCHEME, ZOO


@dataclass(frozen=True)
class Model:
    """Where a model is.

    Attributes:
        name: A short name, for directories and titles.
        config: The file that contains the config: a ``.py`` file, or the file of weights itself.
            :func:`xcit_dense.mm.config.load.load_config` reads both.
        weights: The path of the file of weights, or ``xcit://NAME``, which is downloaded when it is read.
        work_dir: The work directory that the config comes from. None for other models.
    """

    name: str
    config: Path
    weights: str
    work_dir: Path | None = None


def locate_model(text: str | Path) -> Model:
    """Finds the config and the weights of a detector or segmentor.

    Args:
        text: One of:

            - a work directory: the config in it, and its last intact checkpoint;
            - a checkpoint: the config in its directory, or else the config that the training wrote into the checkpoint;
            - a directory of a saved model, or its ``model.safetensors``: the config in the header of that file;
            - a published name of a complete model, ``coco/small_12_p16`` or ``xcit://coco/small_12_p16``: the shipped
              config;
            - ``hf://USER/REPOSITORY``: as for a checkpoint. The file is downloaded at once.

            An existing path is preferred to a name. Other texts never reach the network.

    Returns:
        The model.

    Raises:
        UserError: The text does not name a model, or names weights without a config: those of a backbone, for example.
            For an unknown name, the message has the nearest one.

    Example:
        >>> locate_model("coco/small_12_p16").config.name
        'mask_rcnn_xcit_s12.py'
    """
    text = str(text)
    path = Path(text).expanduser()
    published = ZOO.get(text.removeprefix(SCHEME))
    if published and not path.exists():
        config = find_shipped(Path(published.config).stem) if published.config else None
        if config is None:
            raise _of_a_backbone(text)
        return Model(published.name.replace("/", "_"), config, SCHEME + published.name)
    if text.startswith(HUB):
        return _locate_file(resolve(text), text)
    if "://" in text:
        check(text)
        raise UserError(f"{text} does not name its config; write the config before it.")
    if path.is_dir():
        return _locate_directory(path)
    if path.is_file():
        return _locate_file(path, text)
    near = nearest(text, [*shipped_configs(), *ZOO]) or nearest_path(path)
    hint = f" Did you mean {str(near)!r}?" if near else ""
    raise UserError(
        f"{text} is not a config (no .py at its end, no shipped config of this name), nor weights (no file, work "
        f"directory or published name).{hint}"
    )


def _locate_directory(directory: Path) -> Model:
    if (directory / WEIGHTS).is_file():
        return _locate_file(directory / WEIGHTS, str(directory))
    try:
        return Model(directory.absolute().name, config_in(directory), str(directory), directory)
    except UserError:  # no config in the directory, or several
        last = last_intact_checkpoint(directory)
        if last is None or not last.is_file() or read_model_config(last) is None:
            raise
        return Model(directory.absolute().name, last, str(last), directory)


def _locate_file(path: Path, text: str) -> Model:
    description = read_description(path)
    if description is not None and "config" in description:
        return Model(short_name(path), path, str(path))
    if description is not None:
        raise _of_a_backbone(text)
    if text.startswith(HUB):
        if read_model_config(path) is None:
            raise UserError(f"{text} has weights without a config; write the config before it.")
        return Model(short_name(path), path, str(path))
    try:
        return Model(short_name(path), config_in(path.parent), str(path), path.parent)
    except UserError:  # no config in the directory, or several
        if read_model_config(path) is None:
            raise
    return Model(short_name(path), path, str(path))


def _of_a_backbone(text: str) -> UserError:
    return UserError(
        f"{text} are the weights of a backbone, without a detector or segmentor; name a config before them."
    )
