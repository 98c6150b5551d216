"""Configs for a run: read, pointed at data, and checked before anything is written."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from xcit_dense.datasets.layouts import read_categories
from xcit_dense.errors import UserError
from xcit_dense.mm.config.own_data import LOADERS, use_own_data
from xcit_dense.mm.config.walk import datasets_in


class OptionAction(DictAction):
    """MMEngine's action of ``--cfg-options``, which says what is wrong with an option."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Reads options.

        Args:
            parser: The parser.
            namespace: Where to put them.
            values: The options.
            option_string: What the command line calls them.

        Raises:
            UserError: One is not ``KEY=VALUE``.
        """
        for value in values:
            if "=" not in value:
                raise UserError(
                    f"{option_string} has {value!r}; write KEY=VALUE, as in train_dataloader.batch_size=4, and what is "
                    "no option before it."
                )
        super().__call__(parser, namespace, values, option_string)


def load_config(
    path: str | Path,
    options: dict[str, Any] | None = None,
    data_root: str | None = None,
    classes: str | None = None,
    ignore_zero: bool = False,
) -> Config:
    """Reads a config and applies what the command line says.

    Args:
        path: The config's file.
        options: Values by dotted key, which win over the file's.
        data_root: Directory that every data set and evaluator is to use instead of the file's.
        classes: With it, ``data_root`` may be laid out in other ways and has classes of its own; as are the two
            arguments below, it is one of :func:`xcit_dense.mm.config.own_data.use_own_data`.
        ignore_zero: Whether 0 in label pictures marks pixels without a label.

    Returns:
        The whole config.

    Raises:
        UserError: No such file, a file that cannot be read, no data set with a root to replace, or data that does not
            fit.
    """
    if not Path(path).is_file():
        own = sorted(map(str, Path(path).glob("*.py")))  # of a work directory
        raise UserError(
            f"No config at {path}; {f'write {own[0]}' if own else 'those of xcit_dense are in its directory configs/'}."
        )
    try:
        config = Config.fromfile(path)
    except Exception as error:  # it is code of the user's
        kind = "" if isinstance(error, ImportError | SyntaxError | OSError) else f"{type(error).__name__}: "
        raise UserError(
            f"The config {path} cannot be read: {kind}{error}; mend it, or install what it imports."
        ) from error
    if classes is not None:
        if data_root is None:
            raise UserError("--classes is for data of your own; write --data-root DIR too.")
        use_own_data(config, data_root, classes, ignore_zero)
    elif ignore_zero:
        raise UserError("--ignore-zero is for data of your own; write --classes auto too.")
    elif data_root is not None:
        _set_data_root(config, data_root)
    for name in options or ():
        _check_parents(config, name)
    try:
        config.merge_from_dict(options or {})
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"--cfg-options {' '.join(options or ())} has no place in {path} ({type(error).__name__}: {error}); "
            f"`python -m xcit_dense config {path}` prints what there is."
        ) from error
    return config


def _check_parents(config: Config, name: str) -> None:
    """Refuses an option within something that is not there, where what is there is called much the same."""
    node: Any = config
    for key in name.split(".")[:-1]:
        if not isinstance(node, dict | Config):
            return
        if key not in node:
            near = difflib.get_close_matches(key, list(node), n=1, cutoff=0.8)
            if near:
                raise UserError(f"--cfg-options {name}: the config has no {key!r} there; did you mean {near[0]!r}?")
            return
        node = node[key]


def scale_rate(config: Config, batch: int | None = None) -> None:
    """Lets the learning rate follow the batch: both times two, or both by half.

    Args:
        config: A whole config.
        batch: Pictures a step and process to train on, instead of the config's; the processes' number counts too.

    Raises:
        UserError: The model cannot train on so few, or the config does not say for how many its rate is meant.
    """
    if batch is not None:
        if batch < 1:
            raise UserError(f"--batch {batch} is no number of pictures; write 1 or more.")
        head = config.model.get("decode_head")
        is_alone = config.get("launcher", "none") == "none"
        if batch == 1 and is_alone and isinstance(head, dict) and 1 in head.get("pool_scales", ()):
            raise UserError(
                f"--batch 1 leaves the batch norm behind {head['type']}'s 1 x 1 pooling a single value; write "
                "--batch 2 or more."
            )
        config.train_dataloader.batch_size = batch
    if "base_batch_size" not in config.get("auto_scale_lr", {}):
        raise UserError(
            "The config does not say for how many pictures a step its learning rate is meant; write "
            "auto_scale_lr = dict(enable=True, base_batch_size=16) in it."
        )
    config.auto_scale_lr.enable = True


def _set_data_root(config: Config, data_root: str) -> None:
    """Replaces each data set's root by ``data_root``, and the old root at the start of evaluators' paths."""
    datasets = [dataset for loader in LOADERS for dataset in datasets_in(config.get(loader))]
    if not all("data_root" in dataset for dataset in datasets):
        raise UserError(
            "--data-root replaces each data set's data_root, but one has none; write data_root = '...' there."
        )
    old_roots = {dataset.data_root or "" for dataset in datasets}
    for dataset in datasets:
        dataset.data_root = data_root
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = config.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            path = evaluator.get("ann_file")
            for old in old_roots if path else ():
                if Path(path).is_relative_to(old):
                    evaluator.ann_file = str(Path(data_root, Path(path).relative_to(old)))


def _check_categories(path: Path, dataset: Any) -> None:
    from mmdet.datasets import CocoDataset

    classes = (dataset.get("metainfo") or {}).get("classes") or CocoDataset.METAINFO["classes"]
    present = [category["name"] for category in read_categories(path)]
    # MMDetection numbers the classes in the order of the file, whatever the config's order is.
    if [name for name in present if name in classes] != list(classes):
        raise UserError(
            f"{path} has the categories {', '.join(present)}, but the config the classes {', '.join(classes)}; write "
            "metainfo = dict(classes=...) in the config's data sets, with names of the file in the order of the file. "
            "With --classes, give all files the categories of the training's, in its order."
        )
