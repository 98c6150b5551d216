"""Checks the data that the data loaders of a config read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from xcit_dense.datasets.checks import Report, check_coco, check_labels, check_pairs
from xcit_dense.datasets.formats.splits import Split
from xcit_dense.datasets.label_files import read_pairs
from xcit_dense.mm.config.bands import bands_of
from xcit_dense.mm.config.dataset_class import classes_of, default_of, ignores_zero, is_a, reads_coco
from xcit_dense.mm.config.repaired import find_original
from xcit_dense.mm.config.walk import datasets_in, dicts_in

NO_LABELS = "data sets without a directory of label maps"
"""The fault of a data set for segmentation that a test cannot compare with."""


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
    for loader, leaf in ((each, leaf) for each in loaders for leaf in datasets_in(config.get(each))):
        root = Path(leaf.get("data_root") or "")
        key = (root, leaf.get("ann_file"), *sorted((leaf.get("data_prefix") or {}).items()))
        if key in reports:
            continue
        classes = classes_of(config, leaf)
        only_writes = _only_writes_predictions(config, loader)
        if reads_coco(config, leaf):
            left_out = {} if leaf.get("test_mode") else leaf.get("filter_cfg") or {}
            reports[key] = check_coco(
                root / leaf.ann_file,
                root / (leaf.data_prefix.get("img") or ""),
                classes,
                masks=any(node.get("with_mask") for node in dicts_in(leaf.pipeline)),
                min_size=left_out.get("min_size", 0),
                leaves_out_empty=left_out.get("filter_empty_gt", False),
                needs_objects=not only_writes,
                limit=limit,
                bands=bands_of(config) or (),
            )
            reports[key].source = find_original(config, leaf)
        elif config.get("default_scope") == "mmseg" and only_writes:
            reports[key] = Report(root, "not checked, because the test only writes predictions")
        elif is_a(config, leaf, "PairsDataset"):
            prefix = leaf.data_prefix
            zero = ignores_zero(config, leaf)
            pairs = read_pairs(root / leaf.ann_file)
            images, labels = root / prefix.img_path, root / prefix.seg_map_path
            bands = bands_of(config) or ()
            reports[key] = check_pairs(images, labels, pairs, classes, ignore_zero=zero, limit=limit, bands=bands)
        elif config.get("default_scope") == "mmseg" and not (leaf.get("data_prefix") or {}).get("seg_map_path"):
            reports[key] = Report(root, "not checked")
            reports[key].error(NO_LABELS, str(leaf.type))
        elif config.get("default_scope") == "mmseg" and not leaf.get("ann_file"):
            split = Split(
                leaf.data_prefix.img_path,
                leaf.data_prefix.seg_map_path,
                default_of(config, leaf, "img_suffix"),
                default_of(config, leaf, "seg_map_suffix"),
            )
            zero = ignores_zero(config, leaf)
            reports[key] = check_labels(
                root, split, classes, ignore_zero=zero, limit=limit, bands=bands_of(config) or ()
            )
        else:
            reports[key] = Report(root, "not checked")
            reports[key].warning("data sets that are neither COCO files nor label maps", str(leaf.type))
    return list(reports.values())


def _only_writes_predictions(config: Config, loader: str) -> bool:
    """Whether the evaluators of a data loader compute no metrics, as for a test set whose ground truth is secret."""
    evaluators = config.get(loader.replace("_dataloader", "_evaluator")) or []
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    return bool(evaluators) and all(evaluator.get("format_only") for evaluator in evaluators)
