"""Uses a user's own objects, boxes with or without masks, in a config for detection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import METRICS, MODELS

from xcit_dense.datasets.as_coco import count_file, describe, prepare_coco
from xcit_dense.datasets.formats.coco import has_masks, read_categories
from xcit_dense.datasets.formats.objects import ObjectData
from xcit_dense.datasets.formats.splits import Layout, Split
from xcit_dense.datasets.formats.validation import Validation, split_off_objects
from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import classes_of, is_a
from xcit_dense.mm.config.splits import set_classes, set_splits
from xcit_dense.mm.config.walk import datasets_in, dicts_in
from xcit_dense.utils.ranks import is_local_rank_zero
from xcit_dense.visualization.draw import make_palette


def use_objects(
    config: Config,
    data: ObjectData,
    given: list[str] | None,
    directory: Path,
    validation: Validation | None = None,
    keep_classes: bool = False,
) -> list[str]:
    """Changes a config for detection to read data with objects.

    COCO files in a usual layout are read as they are. All other data is written as COCO files first.

    Args:
        config: A complete config, which is changed.
        data: The data.
        given: The names of the categories in use. None uses all categories.
        directory: Where files are made, for example ``WORK_DIR/data``.
        validation: How to split validation images off the training images. None splits nothing off.
        keep_classes: Whether the config keeps its classes, as a test of a trained model needs. If so, the test uses the
            test split, or else the validation split, or else the only split.

    Returns:
        Sentences that describe the data.

    Raises:
        UserError: There are no training images, the data has faults, it lacks a given category, or it lacks the masks
            or the stuff that the model learns.
    """
    if any(is_a(config, leaf, "CocoPanopticDataset") for leaf in datasets_in(config.test_dataloader)):
        raise UserError(
            f"The config reads panoptic data, but {data.root} has objects without stuff; write a config for objects, "
            "for example detection/mask2former_xcit_s12."
        )
    if validation is not None:
        data = split_off_objects(data, validation)
    kept = classes_of(config, next(datasets_in(config.test_dataloader))) if keep_classes else None
    if kept is not None:
        chosen = next(name for name in ("test", "val", *data.splits) if name in data.splits)
        data = replace(data, splits={"test": data.splits[chosen]}, files={})
    elif "train" not in data.splits:
        raise UserError(
            f"The {data.format} data in {data.root} has the splits {', '.join(data.splits)}, but no training images; "
            "name a directory train, or write the directory of the training images."
        )
    if data.files:
        layout = Layout(dict(data.files), Split("val", "annotations/instances_val.json"))
        counts = {split: count_file(data.root / place.annotations) for split, place in data.files.items()}
        sentences = describe(data, counts) if is_local_rank_zero() else []
    else:
        settings = [validation.fraction, validation.seed] if validation else None
        layout, sentences = prepare_coco(data, directory, settings, kept)
    if validation is not None:
        sentences.append(
            f"  note: --val-fraction {validation.fraction:g} has split the validation images off the training images, "
            f"with --seed {validation.seed}"
        )
    layout.splits.setdefault("train", layout.splits.get("test", layout.absent_val))
    root = data.root.absolute()
    train = root / layout.splits["train"].annotations
    present = [str(category["name"]) for category in read_categories(train, given or ())]
    unknown = [name for name in given or () if name not in present]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the categories of the data in {root} are "
            f"{', '.join(present)}; write some of these names."
        )
    # MMDetection numbers the classes in the order of the file and ignores the order in the config.
    classes = [name for name in present if given is None or name in given]
    set_splits(
        config, root, layout, lambda split: {"ann_file": split.annotations, "data_prefix": {"img": split.images}}
    )
    set_classes(config, classes, make_palette(len(classes)))
    if not has_masks(train):
        _leave_out_masks(config, keep_model=keep_classes)
    val = layout.splits.get("val", layout.absent_val)
    for name, place in (("val_evaluator", val), ("test_evaluator", layout.splits.get("test", val))):
        for node in dicts_in(config.get(name)):
            if "ann_file" in node:
                node.ann_file = str(root / place.annotations)
            if is_a(config, node, "CocoMetric", METRICS):
                node.classwise = True
    return sentences


def _leave_out_masks(config: Config, keep_model: bool) -> None:
    """Changes a config for boxes and masks into a config for boxes. A trained model may keep its mask head."""
    if "panoptic_head" in config.model:
        raise UserError(
            f"{config.model.type} learns masks, but the data has boxes without masks; write a config for boxes, for "
            "example dino_xcit_s12."
        )
    if not keep_model:
        if is_a(config, config.model, "MaskRCNN", MODELS):
            config.model.type = "FasterRCNN"
        for key in ("mask_head", "mask_roi_extractor"):
            config.model.get("roi_head", {}).pop(key, None)
    for node in dicts_in(config._cfg_dict):
        for key in ("with_mask", "pad_mask"):
            if node.get(key):
                node[key] = False
        if is_a(config, node, "CocoMetric", METRICS):
            node["metric"] = "bbox"
