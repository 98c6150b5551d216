"""Uses a user's own objects, boxes with or without masks, in a config for detection."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import METRICS, MODELS

from xcit_dense.datasets.formats.coco import find_coco, has_masks, read_categories
from xcit_dense.errors import UserError
from xcit_dense.mm.config.dataset_class import is_a
from xcit_dense.mm.config.splits import set_classes, set_splits
from xcit_dense.mm.config.walk import dicts_in
from xcit_dense.visualization.draw import make_palette


def use_coco(config: Config, root: Path, given: list[str] | None) -> None:
    """Changes a config for detection to read COCO files.

    Args:
        config: A complete config, which is changed.
        root: The data directory.
        given: The names of the categories in use. None uses all categories.

    Raises:
        UserError: There is no annotation file, or it lacks a given category.
    """
    layout = find_coco(root)
    present = [
        str(category["name"]) for category in read_categories(root / layout.splits["train"].annotations, given or ())
    ]
    unknown = [name for name in given or () if name not in present]
    if unknown:
        raise UserError(
            f"--classes names {', '.join(unknown)}, but the categories of {layout.splits['train'].annotations} are "
            f"{', '.join(present)}; write some of these names."
        )
    # MMDetection numbers the classes in the order of the file and ignores the order in the config.
    classes = [name for name in present if given is None or name in given]
    set_splits(
        config, root, layout, lambda split: {"ann_file": split.annotations, "data_prefix": {"img": split.images}}
    )
    set_classes(config, classes, make_palette(len(classes)))
    if not has_masks(root / layout.splits["train"].annotations):
        _leave_out_masks(config)
    val = layout.splits.get("val", layout.absent_val)
    for name, split in (("val_evaluator", val), ("test_evaluator", layout.splits.get("test", val))):
        for node in dicts_in(config.get(name)):
            if "ann_file" in node:
                node.ann_file = str(root / split.annotations)
            if is_a(config, node, "CocoMetric", METRICS):
                node.classwise = True


def _leave_out_masks(config: Config) -> None:
    """Changes a config for boxes and masks into a config for boxes."""
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
