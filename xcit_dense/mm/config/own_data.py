"""Uses a user's own data in a config: finds the files, sets the classes."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from xcit_dense.datasets.formats.recognise import recognise_labels
from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import classes_of, ignores_zero
from xcit_dense.mm.config.own_label_maps import use_labels
from xcit_dense.mm.config.own_objects import use_coco
from xcit_dense.mm.config.splits import LOADERS
from xcit_dense.mm.config.walk import datasets_in

# Variables of config files about their own data sets. Runs do not read these variables.
_OF_OTHER_DATA = ("data_root", "dataset", "metainfo", "classes", "num_classes")


def use_own_data(config: Config, data_root: str, classes: str = "auto", ignore_zero: bool = False) -> None:
    """Changes a config to use data with its own classes, and sets the number of classes of its heads.

    Detection reads annotation files in COCO's format. Segmentation reads images and label maps. Without a validation
    split, the run does not validate. Without a test split, the test uses the validation split.

    Args:
        config: A complete config, which is changed.
        data_root: The data directory.
        classes: ``'auto'``, or names with commas between them. With COCO files, the names choose categories. With label
            maps, the names belong to the values in their order.
        ignore_zero: Whether 0 in label maps marks pixels without a label, so that the classes start at 1.

    Raises:
        UserError: The layout of the data is unknown, or the classes do not fit the data.
    """
    root = Path(data_root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"No data directory at {root}; put the data there, or write --data-root DIR.")
    if "model" not in config or not all(list(datasets_in(config.get(loader))) for loader in LOADERS):
        raise UserError("--classes needs a config with a model and with data to train, validate and test on.")
    given = None if classes == "auto" else [name.strip() for name in classes.split(",") if name.strip()]
    if given is not None and (not given or len(set(given)) < len(given)):
        raise UserError(
            f"--classes {classes} names no class, or names a class twice; write --classes auto, or names like a,b,c."
        )
    for name in _OF_OTHER_DATA:
        config.pop(name, None)
    scope = config.get("default_scope")
    if scope == "mmdet":
        if ignore_zero:
            raise UserError("--ignore-zero is for label maps, and COCO files have no label maps; remove --ignore-zero.")
        use_coco(config, root, given)
    elif scope == "mmseg":
        use_labels(
            config, recognise_labels(root), given, ignore_zero, Path(config.get("work_dir") or "work_dirs", "data")
        )
    else:
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")


def describe_data(config: Config) -> list[str]:
    """Describes the data and the classes of a config.

    Args:
        config: A complete config.

    Returns:
        Lines to print.
    """
    leaf = next(datasets_in(config.train_dataloader))
    names = classes_of(config, leaf)
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    lines = [f"Classes: {len(names)} ({listed})"]
    if config.get("default_scope") == "mmseg":
        zero = "marks pixels without a label" if ignores_zero(config, leaf) else f"is {names[0]!r}"
        lines.append(f"In label maps 0 {zero}, and 255 is ignored.")
    if not config.get("val_dataloader"):
        lines.append("No validation images (val): the training runs without validation.")
    if "mask_head" not in config.model.get("roi_head", {"mask_head": None}):
        lines.append("No masks in the annotations: the training learns boxes only.")
    return lines
