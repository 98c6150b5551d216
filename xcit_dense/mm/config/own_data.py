"""A user's own data in a config: found, named, checked."""

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

# Names that configs give to parts of their data sets on the way; no run reads them.
_OF_OTHER_DATA = ("data_root", "dataset", "metainfo", "classes", "num_classes")


def use_own_data(config: Config, data_root: str, classes: str = "auto", ignore_zero: bool = False) -> None:
    """Points a config at data with classes of its own, and gives its heads as many classes.

    Detection reads annotation files in COCO's format, segmentation pictures with label pictures beside them. Without a
    held-out split there is no validation; without a test split the held-out one is tested.

    Args:
        config: A whole config, which is changed.
        data_root: The data directory.
        classes: ``'auto'``, or names with commas between them: those of a COCO file that are to be used, or those of
            the values of label pictures.
        ignore_zero: Whether 0 in label pictures marks pixels without a label, and the classes begin with 1.

    Raises:
        UserError: The data is not laid out in a known way, or the classes do not fit it.
    """
    root = Path(data_root).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"No data directory at {root}; put the data there, or write --data-root DIR.")
    if "model" not in config or not all(list(datasets_in(config.get(loader))) for loader in LOADERS):
        raise UserError("--classes needs a config with a model and with data to train, validate and test on.")
    given = None if classes == "auto" else [name.strip() for name in classes.split(",") if name.strip()]
    if given is not None and (not given or len(set(given)) < len(given)):
        raise UserError(f"--classes {classes} names no class, or one twice; write --classes auto, or names like a,b,c.")
    for name in _OF_OTHER_DATA:
        config.pop(name, None)
    scope = config.get("default_scope")
    if scope == "mmdet":
        if ignore_zero:
            raise UserError("--ignore-zero is for label pictures; COCO files have no such value, so leave it out.")
        _use_coco(config, root, given)
    elif scope == "mmseg":
        _use_labels(config, root, given, ignore_zero)
    else:
        raise UserError(f"default_scope is {scope!r}; write default_scope = 'mmdet' or 'mmseg' in the config.")


def describe_data(config: Config) -> list[str]:
    """What there is to know about a config's data and classes, in lines to print."""
    leaf = next(datasets_in(config.train_dataloader))
    names = _classes(config, leaf)
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    lines = [f"Classes: {len(names)} ({listed})"]
    if config.get("default_scope") == "mmseg":
        zero = "marks pixels without a label" if _ignores_zero(config, leaf) else f"is {names[0]!r}"
        lines.append(f"In label pictures 0 {zero}, and 255 is ignored.")
    if not config.get("val_dataloader"):
        lines.append("No held-out pictures (val): trains without validation.")
    if "mask_head" not in config.model.get("roi_head", {"mask_head": None}):
        lines.append("Trains boxes alone, without masks.")
    return lines


def check_data(config: Config, loaders: tuple[str, ...], limit: int | None = None) -> list[Report]:
    """Checks a config's data (:mod:`xcit_dense.datasets.checks`).

    Args:
        config: A whole config, which :func:`xcit_dense.mm.config.checks.check_config` has passed.
        loaders: The data loaders whose data is checked, a set that several share once.
        limit: Pictures of each set that are opened at most; None opens all.

    Returns:
        What was found, a report for each set; of types other than COCO files and label pictures, that it was not
        checked.
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
            reports[key].warning("data sets that are neither COCO files nor label pictures", str(leaf.type))
    return list(reports.values())


def _use_coco(config: Config, root: Path, given: list[str] | None) -> None:
    layout = find_coco(root)
    present = [str(category["name"]) for category in read_categories(root / layout.splits["train"].annotations)]
    unknown = [name for name in given or () if name not in present]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the categories of {layout.splits['train'].annotations} are "
            f"{', '.join(present)}; write names of these."
        )
    # MMDetection numbers the classes in the order of the file, whatever the order here is.
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
                f"Label pictures in {root / train.annotations} hold values up to {max(values)}, but MMSegmentation "
                "reads 0 to 255; number the classes from 0."
            )
        ignore_zero = ignore_zero or 0 not in values  # then nothing is lost by it
        classes = [f"class {value}" for value in range(int(ignore_zero), max(values, default=0) + 1)]
        if 2 * len(values) < len(classes):
            raise UserError(
                f"The label pictures in {root / train.annotations} hold {len(values)} values of 0 to {max(values)} "
                f"({', '.join(map(str, sorted(values)[:8]))}), so most classes would be empty; number them 0, 1, 2 and "
                "so on, or name the classes of all values in classes.txt."
            )
    if len(classes) < 2:
        raise UserError(
            f"The labels in {root / train.annotations} tell {len(classes)} class{'es' * (len(classes) != 1)} "
            f"apart{', 0 and 255 aside' if ignore_zero else ', 255 aside'}, and segmentation needs two; number them "
            "from 0, for instance 0 for background and 1 (not 255) for the object."
        )
    # Colours that the user has given to the values.
    example = next(iter(files_in(root / train.annotations, [train.label_suffix])))
    palette = read_palette(root / train.annotations / example)[int(ignore_zero) :][: len(classes)]
    if len(set(palette)) < len(classes):
        palette = make_palette(len(classes))
    _set_splits(
        config,
        root,
        layout,
        lambda split: {
            "type": "BaseSegDataset",  # others insist on classes of their own
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
    """Points each data loader at its split; validation ends where there is none."""
    val = layout.splits.get("val", layout.absent_val)
    splits = (layout.splits["train"], val, layout.splits.get("test", val))
    for loader, split in zip(LOADERS, splits):
        for leaf in datasets_in(config[loader]):
            for key in ("indices", "ann_file", "data_prefix"):
                leaf.pop(key, None)
            leaf.update(data_root=str(root), **describe(split))
    # The test's stays: its pipeline is that of inferencers, and a test says that its data is missing.
    if "val" not in layout.splits:
        for key in ("val_dataloader", "val_evaluator", "val_cfg"):
            config[key] = None


def _set_classes(config: Config, classes: list[str], palette: list[tuple[int, int, int]]) -> None:
    for loader in LOADERS:
        for leaf in datasets_in(config.get(loader)):
            leaf.metainfo = {"classes": tuple(classes), "palette": palette}
    for name, part in config.model.items():
        if name != "rpn_head":  # it tells objects from background
            for node in dicts_in(part):
                if "num_classes" in node:
                    node["num_classes"] = len(classes)


def _leave_out_masks(config: Config) -> None:
    """Makes a config that finds boxes and masks find boxes alone."""
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
    """Names of a data set's classes."""
    return list((leaf.get("metainfo") or {}).get("classes") or _default(config, leaf, "METAINFO")["classes"])


def _default(config: Config, leaf: Any, name: str) -> Any:
    """What a data set's config says, or its class: an argument's default, or an attribute."""
    if name in leaf:
        return leaf[name]
    scope = config.default_scope
    with DefaultScope.overwrite_default_scope(scope):
        import_library(scope, "datasets")
        kind = import_module(f"{scope}.registry").DATASETS.get(leaf.type)
    if kind is None:
        raise UserError(f"The data set type {leaf.type!r} is not registered; add its module to custom_imports.")
    if hasattr(kind, name):
        return getattr(kind, name)
    for each in kind.__mro__:
        argument = inspect.signature(each.__init__).parameters.get(name)
        if argument is not None:
            return argument.default
    return None


def _ignores_zero(config: Config, leaf: Any) -> bool:
    """Whether a data set of label pictures takes 0 for no label."""
    return bool(_default(config, leaf, "reduce_zero_label"))
