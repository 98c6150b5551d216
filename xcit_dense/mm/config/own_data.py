"""Uses a user's own data in a config: finds the files, sets the classes, checks the data."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from xcit_dense.datasets.checks import Report, check_coco, check_labels
from xcit_dense.datasets.layouts import (
    Layout,
    Split,
    files_in,
    find_coco,
    find_labels,
    has_masks,
    read_categories,
    read_names,
    read_palette,
    read_values,
)
from xcit_dense.errors import UserError
from xcit_dense.mm.config.libraries import import_library
from xcit_dense.mm.config.walk import datasets_in, dicts_in
from xcit_dense.structures import IGNORED
from xcit_dense.visualization.draw import make_palette

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")

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
        _use_coco(config, root, given)
    elif scope == "mmseg":
        _use_labels(config, root, given, ignore_zero)
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
    names = _classes(config, leaf)
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    lines = [f"Classes: {len(names)} ({listed})"]
    if config.get("default_scope") == "mmseg":
        zero = "marks pixels without a label" if _ignores_zero(config, leaf) else f"is {names[0]!r}"
        lines.append(f"In label maps 0 {zero}, and 255 is ignored.")
    if not config.get("val_dataloader"):
        lines.append("No validation images (val): the training runs without validation.")
    if "mask_head" not in config.model.get("roi_head", {"mask_head": None}):
        lines.append("No masks in the annotations: the training learns boxes only.")
    return lines


def check_data(config: Config, loaders: tuple[str, ...], limit: int | None = None) -> list[Report]:
    """Checks the data of a config (:mod:`xcit_dense.datasets.checks`).

    Args:
        config: A complete config that :func:`xcit_dense.mm.config.checks.check_config` accepts.
        loaders: The data loaders whose data is checked. A data set that several loaders share is checked once.
        limit: The largest number of images to open in each data set. None opens all images.

    Returns:
        A report for each data set. The report of a data set that is neither a COCO file nor label maps has a warning
        that the data was not checked.
    """
    reports: dict[Any, Report] = {}
    for leaf in (leaf for loader in loaders for leaf in datasets_in(config.get(loader))):
        root = Path(leaf.get("data_root") or "")
        key = (root, leaf.get("ann_file"), *sorted((leaf.get("data_prefix") or {}).items()))
        if key in reports:
            continue
        classes = _classes(config, leaf)
        if leaf.type == "CocoDataset":
            left_out = {} if leaf.get("test_mode") else leaf.get("filter_cfg") or {}
            reports[key] = check_coco(
                root / leaf.ann_file,
                root / (leaf.data_prefix.get("img") or ""),
                classes,
                masks=any(node.get("with_mask") for node in dicts_in(leaf.pipeline)),
                min_size=left_out.get("min_size", 0),
                leaves_out_empty=left_out.get("filter_empty_gt", False),
                limit=limit,
            )
        elif config.get("default_scope") == "mmseg" and not leaf.get("ann_file"):
            split = Split(
                leaf.data_prefix.img_path,
                leaf.data_prefix.seg_map_path,
                _default(config, leaf, "img_suffix"),
                _default(config, leaf, "seg_map_suffix"),
            )
            zero = _ignores_zero(config, leaf)
            reports[key] = check_labels(root, split, classes, ignore_zero=zero, limit=limit)
        else:
            reports[key] = Report(root, "not checked")
            reports[key].warning("data sets that are neither COCO files nor label maps", str(leaf.type))
    return list(reports.values())


def _use_coco(config: Config, root: Path, given: list[str] | None) -> None:
    layout = find_coco(root)
    present = [str(category["name"]) for category in read_categories(root / layout.splits["train"].annotations)]
    unknown = [name for name in given or () if name not in present]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the categories of {layout.splits['train'].annotations} are "
            f"{', '.join(present)}; write some of these names."
        )
    # MMDetection numbers the classes in the order of the file and ignores the order in the config.
    classes = [name for name in present if given is None or name in given]
    _set_splits(
        config, root, layout, lambda split: {"ann_file": split.annotations, "data_prefix": {"img": split.images}}
    )
    _set_classes(config, classes, make_palette(len(classes)))
    if not has_masks(root / layout.splits["train"].annotations):
        _leave_out_masks(config)
    val = layout.splits.get("val", layout.absent_val)
    for name, split in (("val_evaluator", val), ("test_evaluator", layout.splits.get("test", val))):
        for node in dicts_in(config.get(name)):
            if "ann_file" in node:
                node.ann_file = str(root / split.annotations)
            if node.get("type") == "CocoMetric":
                node.classwise = True


def _use_labels(config: Config, root: Path, given: list[str] | None, ignore_zero: bool) -> None:
    layout = find_labels(root)
    train = layout.splits["train"]
    found = read_names(root) if given is None else None
    if found:
        classes, begins_with_one = found
        ignore_zero = ignore_zero or begins_with_one
    elif given is not None:
        classes = given
    else:
        labels = [
            root / split.annotations / name
            for split in layout.splits.values()
            for name in files_in(root / split.annotations, [split.label_suffix])
        ]
        values = read_values(labels)
        if max(values, default=0) > IGNORED:
            raise UserError(
                f"Label maps in {root / train.annotations} contain values up to {max(values)}, but MMSegmentation "
                "reads 0 to 255; number the classes from 0."
            )
        ignore_zero = ignore_zero or 0 not in values  # without zeros, ignoring them loses nothing
        classes = [f"class {value}" for value in range(int(ignore_zero), max(values, default=0) + 1)]
        if 2 * len(values) < len(classes):
            raise UserError(
                f"The label maps in {root / train.annotations} contain {len(values)} values of 0 to {max(values)} "
                f"({', '.join(map(str, sorted(values)[:8]))}), so most classes would be empty; number them 0, 1, 2 and "
                "so on, or name the classes of all values in classes.txt."
            )
    if len(classes) < 2:
        raise UserError(
            f"The label maps in {root / train.annotations} have {len(classes)} class{'es' * (len(classes) != 1)} "
            f"({'0 and 255 are' if ignore_zero else '255 is'} ignored), but segmentation needs two; number the classes "
            "from 0, for example 0 for background and 1 (not 255) for the object."
        )
    # A label map may contain a palette, which the user has chosen.
    example = next(iter(files_in(root / train.annotations, [train.label_suffix])))
    palette = read_palette(root / train.annotations / example)[int(ignore_zero) :][: len(classes)]
    if len(set(palette)) < len(classes):
        palette = make_palette(len(classes))
    _set_splits(
        config,
        root,
        layout,
        lambda split: {
            "type": "BaseSegDataset",  # other types accept only their own classes
            "data_prefix": {"img_path": split.images, "seg_map_path": split.annotations},
            "img_suffix": split.image_suffix,
            "seg_map_suffix": split.label_suffix,
            "reduce_zero_label": ignore_zero,
        },
    )
    for node in dicts_in(config._cfg_dict):
        if node.get("type") == "LoadAnnotations":
            node["reduce_zero_label"] = ignore_zero
    _set_classes(config, classes, palette)


def _set_splits(config: Config, root: Path, layout: Layout, describe: Callable[[Split], dict[str, Any]]) -> None:
    """Sets the split of each data loader, and removes the validation if the data has no validation split."""
    val = layout.splits.get("val", layout.absent_val)
    splits = (layout.splits["train"], val, layout.splits.get("test", val))
    for loader, split in zip(LOADERS, splits):
        for leaf in datasets_in(config[loader]):
            for key in ("indices", "ann_file", "data_prefix"):
                leaf.pop(key, None)
            leaf.update(data_root=str(root), **describe(split))
    # The test's settings stay: MM's inferencers read its pipeline, and a test reports that its data is missing.
    if "val" not in layout.splits:
        for key in ("val_dataloader", "val_evaluator", "val_cfg"):
            config[key] = None


def _set_classes(config: Config, classes: list[str], palette: list[tuple[int, int, int]]) -> None:
    for loader in LOADERS:
        for leaf in datasets_in(config.get(loader)):
            leaf.metainfo = {"classes": tuple(classes), "palette": palette}
    for name, part in config.model.items():
        if name != "rpn_head":  # a region proposal network has one class, whatever the data has
            for node in dicts_in(part):
                if "num_classes" in node:
                    node["num_classes"] = len(classes)


def _leave_out_masks(config: Config) -> None:
    """Changes a config for boxes and masks into a config for boxes."""
    if config.model.type == "MaskRCNN":
        config.model.type = "FasterRCNN"
    for key in ("mask_head", "mask_roi_extractor"):
        config.model.get("roi_head", {}).pop(key, None)
    for node in dicts_in(config._cfg_dict):
        for key in ("with_mask", "pad_mask"):
            if node.get(key):
                node[key] = False
        if node.get("type") == "CocoMetric":
            node["metric"] = "bbox"


def _classes(config: Config, leaf: Any) -> list[str]:
    """Returns the class names of a data set."""
    return list((leaf.get("metainfo") or {}).get("classes") or _default(config, leaf, "METAINFO")["classes"])


def _default(config: Config, leaf: Any, name: str) -> Any:
    """Returns a value from a data set's config, or else the default of the data set's class."""
    if name in leaf:
        return leaf[name]
    scope = config.default_scope
    with DefaultScope.overwrite_default_scope(scope):
        import_library(scope, "datasets")
        kind = import_module(f"{scope}.registry").DATASETS.get(leaf.type)
    if kind is None:
        raise UserError(
            f"The data set type {leaf.type!r} is not registered; add the module of the type to custom_imports."
        )
    if hasattr(kind, name):
        return getattr(kind, name)
    for each in kind.__mro__:
        argument = inspect.signature(each.__init__).parameters.get(name)
        if argument is not None:
            return argument.default
    return None


def _ignores_zero(config: Config, leaf: Any) -> bool:
    """Returns whether 0 in the label maps of a data set marks pixels without a label."""
    return bool(_default(config, leaf, "reduce_zero_label"))
