"""Reads a config and applies the options of the command line."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from xcit_dense.datasets.formats.recognise import UnknownFormatError
from xcit_dense.datasets.formats.validation import Validation
from xcit_dense.errors import UserError, did_you_mean
from xcit_dense.mm.config.arguments import check_options
from xcit_dense.mm.config.bands import use_bands
from xcit_dense.mm.config.own_data import use_own_data
from xcit_dense.mm.config.repaired import restore_data
from xcit_dense.mm.config.saved import restore_config
from xcit_dense.mm.config.splits import LOADERS
from xcit_dense.mm.config.walk import datasets_in
from xcit_dense.utils.configs import find_shipped, shipped_configs
from xcit_dense.utils.ranks import is_local_rank_zero
from xcit_dense.weights.read import SUFFIXES


class OptionAction(DictAction):
    """MMEngine's action for ``--cfg-options``, with an error message for options that are not ``KEY=VALUE``."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Reads options into the namespace.

        Args:
            parser: The parser.
            namespace: Receives the options.
            values: The options.
            option_string: The name of the option on the command line.

        Raises:
            UserError: An option is not ``KEY=VALUE``.
        """
        for value in values:
            if "=" not in value:
                raise UserError(
                    f"{option_string} has {value!r}, which is not KEY=VALUE; write for example "
                    f"train_dataloader.batch_size=4, and write other arguments before {option_string}."
                )
        super().__call__(parser, namespace, values, option_string)


def load_config(
    path: str | Path,
    options: dict[str, Any] | None = None,
    data_root: str | None = None,
    classes: str | None = None,
    ignore_zero: bool = False,
    bands: str | None = None,
    draw_bands: str | None = None,
    normalize: str | None = None,
    *,
    work_dir: str | Path | None = None,
    validation: Validation | None = None,
    keep_classes: bool = False,
    colours: str | None = None,
    import_modules: bool = True,
) -> Config:
    """Reads a config and applies the options of the command line.

    Args:
        path: The config file, or the name of a shipped config such as ``'mask_rcnn_xcit_s12'``. A saved model or the
            checkpoint of a training gives the config in it, for prediction and tests
            (:func:`xcit_dense.mm.config.saved.restore_config`).
        options: Values by dotted key. They override the values of the file.
        data_root: The directory that all data sets and evaluators use instead of the file's.
        classes: ``'auto'`` or names of classes, for data with its own classes in ``data_root``
            (:func:`xcit_dense.mm.config.own_data.use_own_data`).
        ignore_zero: Whether 0 in label maps marks pixels without a label. Needs ``classes``.
        bands: The bands that the model gets (:func:`xcit_dense.mm.config.bands.use_bands`).
        draw_bands: The bands that drawings show.
        normalize: Where the mean and the standard deviation of the bands come from.
        work_dir: Its directory ``data`` receives files that are made from the data. None takes the config's
            ``work_dir``, or else ``work_dirs/NAME_OF_CONFIG``.
        validation: How to split validation images off the training images of data with its own classes.
        keep_classes: Whether the model keeps its classes if ``data_root`` has other files than the config names.
        colours: A file that names the class of each colour in label images of data with its own classes.
        import_modules: Whether to import the modules that the config names in ``custom_imports``.

    Returns:
        The complete config.

    Raises:
        UserError: The file does not exist or cannot be read, a data set has no root to replace, or the data does not
            fit the config.

    Example:
        >>> _ = Path("tiny.py").write_text("model = dict(type='MaskRCNN', backbone=dict(type='XCiT'))")
        >>> load_config("tiny.py", {"model.backbone.variant": "nano_12_p8"}).model.backbone
        {'type': 'XCiT', 'variant': 'nano_12_p8'}
    """
    config = _read_config(Path(path), import_modules)
    restore_data(config)
    directory = Path(work_dir or config.get("work_dir") or Path("work_dirs", Path(path).stem), "data")
    own: dict[str, Any] = {
        "directory": directory,
        "validation": validation,
        "colours": Path(colours).expanduser() if colours else None,
    }
    if classes is not None:
        if data_root is None:
            raise UserError("--classes is for your own data; write --data-root DIR too.")
        use_own_data(config, data_root, classes, ignore_zero, **own)
    elif data_root is not None and (validation is not None or colours is not None):
        use_own_data(config, data_root, "auto", ignore_zero, **own)
    elif ignore_zero:
        raise UserError("--ignore-zero is for your own data; write --classes auto too.")
    elif validation is not None or colours is not None:
        option = "--val-fraction" if validation is not None else "--colours"
        raise UserError(f"{option} is for your own data; write --data-root DIR too.")
    elif data_root is not None:
        _replace_data(config, data_root, keep_classes, own)
    _merge_options(config, options or {}, path)
    use_bands(config, bands, draw_bands, normalize)
    return config


def scale_rate(config: Config, batch: int | None = None) -> None:
    """Scales the learning rate with the batch size: twice the images, twice the rate.

    Args:
        config: A complete config, which is changed.
        batch: The number of images that each process trains on in a step, instead of the config's number. The number of
            processes counts too.

    Raises:
        UserError: The model cannot train on so few images, or the config does not contain the batch size that belongs
            to its learning rate.

    Example:
        >>> config = Config({"train_dataloader": {"batch_size": 2}, "auto_scale_lr": {"base_batch_size": 16}})
        >>> scale_rate(config)
        >>> config.auto_scale_lr.enable
        True
    """
    if batch is not None:
        if batch < 1:
            raise UserError(f"--batch {batch} is not a number of images; write 1 or more.")
        head = config.model.get("decode_head")
        is_single_process = config.get("launcher", "none") == "none"
        if batch == 1 and is_single_process and isinstance(head, dict) and 1 in head.get("pool_scales", ()):
            raise UserError(
                f"--batch 1 gives the batch norm behind {head['type']}'s 1 x 1 pooling a single value; write "
                "--batch 2 or more."
            )
        config.train_dataloader.batch_size = batch
    if "base_batch_size" not in config.get("auto_scale_lr", {}):
        raise UserError(
            "The config does not contain the batch size that belongs to its learning rate; write "
            "auto_scale_lr = dict(enable=True, base_batch_size=16) in the config."
        )
    config.auto_scale_lr.enable = True


def _read_config(path: Path, import_modules: bool) -> Config:
    if not path.is_file():
        path = find_shipped(str(path)) or path
    if not path.is_file():
        dumped = sorted(map(str, path.glob("*.py")))  # a work directory contains the config of its run
        if dumped:
            raise UserError(f"No config at {path}; write {dumped[0]}.")
        raise UserError(f"No config at {path}. {did_you_mean('shipped config', path.stem, shipped_configs())}")
    if path.suffix in SUFFIXES:  # weights may contain a config
        return restore_config(path)
    try:
        return Config.fromfile(path, import_custom_modules=import_modules)
    except Exception as error:  # a config is code, which can raise any error
        is_clear = isinstance(error, ImportError | SyntaxError | OSError)
        reason = str(error) if is_clear else f"{type(error).__name__}: {error}"
        raise UserError(f"The config {path} cannot be read: {reason}; fix it, or install what it imports.") from error


def _merge_options(config: Config, options: dict[str, Any], path: str | Path) -> None:
    if not options:
        return
    before = deepcopy(config)
    try:
        config.merge_from_dict(options)
    except (KeyError, IndexError, TypeError) as error:
        check_options(before, before, options)  # a misspelt part has a clearer message
        raise UserError(
            f"--cfg-options {' '.join(options)} does not fit {path} ({type(error).__name__}: {error}); "
            f"`python -m xcit_dense config {path}` prints the complete config."
        ) from error
    check_options(before, config, options)


def _replace_data(config: Config, data_root: str, keep_classes: bool, own: dict[str, Any]) -> None:
    """Uses the config's own files in another directory, or else the data that the directory has."""
    if not _has_files(config, Path(data_root).expanduser()):
        try:
            use_own_data(config, data_root, keep_classes=keep_classes, **own)
        except UnknownFormatError:
            pass  # the check names the missing files
        else:
            if is_local_rank_zero():
                source = (
                    "The model keeps its classes" if keep_classes else "The data gives the classes (--classes auto)"
                )
                print(f"{source}, because {data_root} does not have the files that the config names.", flush=True)
            return
    _set_data_root(config, data_root)


def _has_files(config: Config, root: Path) -> bool:
    """Whether a directory has any of the files and directories that the data sets of a config name."""
    if not root.exists():
        return True  # the check reports the missing directory
    for loader in LOADERS:
        for dataset in datasets_in(config.get(loader)):
            prefixes = (dataset.get("data_prefix") or {}).values()
            names = [dataset.ann_file] if dataset.get("ann_file") else [name for name in prefixes if name]
            # A config of own data may name files in its work directory, which do not describe other data.
            if not names or any(not Path(name).is_absolute() and (root / name).exists() for name in names):
                return True
    return False


def _set_data_root(config: Config, data_root: str) -> None:
    """Replaces the root of each data set, and the old root at the start of the evaluators' paths."""
    datasets: list[Any] = []
    for loader in LOADERS:
        datasets += datasets_in(config.get(loader))
    if not all("data_root" in dataset for dataset in datasets):
        raise UserError(
            "--data-root replaces the data_root of each data set, but a data set has no data_root; write "
            "data_root = '...' in the data set."
        )
    old_roots = {dataset.data_root or "" for dataset in datasets}
    for dataset in datasets:
        dataset.data_root = data_root
    for name in ("val_evaluator", "test_evaluator"):
        evaluators = config.get(name) or []
        for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
            for key in ("ann_file", "seg_prefix"):  # the annotations, and the label maps of a panoptic metric
                path = evaluator.get(key)
                if not path:
                    continue
                for old in old_roots:
                    if Path(path).is_relative_to(old):
                        evaluator[key] = str(Path(data_root, Path(path).relative_to(old)))
