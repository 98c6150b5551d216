"""Checks the evaluators of a config: their annotation files, and the metrics that other parts of the config name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import EVALUATOR, HOOKS, METRICS, PARAM_SCHEDULERS

from xcit_dense.errors import UserError, nearest
from xcit_dense.mm.config.dataset_class import classes_of, is_a
from xcit_dense.mm.config.walk import datasets_in, dicts_in
from xcit_dense.utils.ranks import is_local_rank_zero

_OF_LOADER = {"val_dataloader": "val_evaluator", "test_dataloader": "test_evaluator"}
_OF_OBJECTS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
_OF_PROPOSALS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
_OF_PIXELS = {"mIoU": ("mIoU", "mAcc"), "mDice": ("mDice", "mAcc"), "mFscore": ("mFscore", "mPrecision", "mRecall")}


def check_evaluators(config: Config, loaders: tuple[str, ...]) -> None:
    """Checks that evaluators read the annotations of the images that they evaluate.

    Prints a warning if an evaluator reads more images than the data set, because of the data set's ``indices``.

    Args:
        config: A complete config.
        loaders: The data loaders that the run will use.

    Raises:
        UserError: An evaluator reads a missing file, or a file with other content than the data set's.
    """
    for loader in loaders:
        name = _OF_LOADER.get(loader, "")
        leaves = [leaf for leaf in datasets_in(config.get(loader)) if leaf.get("ann_file")]
        files = [Path(leaf.get("data_root") or "", leaf.ann_file) for leaf in leaves]
        for evaluator in dicts_in(config.get(name)):
            given = evaluator.get("ann_file")
            if not given or "://" in given or not files:
                continue
            path = Path(given)
            if not path.is_file():
                raise UserError(
                    f"{name} reads {path}, which does not exist; write --cfg-options {name}.ann_file={files[0]}, which "
                    "is the file of the data set."
                )
            if any(leaf.get("indices") is not None for leaf in leaves) and is_local_rank_zero():
                # A trial of a few images stays possible, and its AP is known to be too low.
                print(
                    f"warning: The data set of {loader} has indices, so it reads some images, but {name} counts the "
                    f"objects of all images of {path} as missed: the AP is too low. Remove indices, or write an "
                    "annotation file with these images.",
                    file=sys.stderr,
                    flush=True,
                )
            if _reads_objects_of_panoptic_data(config, leaves, evaluator):
                continue
            # One evaluator for each of several data sets, or one evaluator for all of them.
            same = any if _is_of_several(config, name) else all
            if same(path.samefile(file) for file in files) or _content([path]) == _content(files):
                continue
            raise UserError(
                f"{name} reads {path}, but the data set of {loader} reads {', '.join(map(str, files))}, with other "
                f"content; write --cfg-options {name}.ann_file={files[0]} too."
            )


def _is_of_several(config: Config, name: str) -> bool:
    """Returns whether each of several data sets has an evaluator of its own."""
    evaluator = config[name]
    return isinstance(evaluator, dict) and is_a(config, evaluator, "MultiDatasetsEvaluator", EVALUATOR)


def _reads_objects_of_panoptic_data(config: Config, leaves: list[Any], evaluator: Any) -> bool:
    """Returns whether an evaluator reads the objects of a panoptic data set, which COCO has in a file of their own."""
    panoptic = all(is_a(config, leaf, "CocoPanopticDataset") for leaf in leaves)
    return panoptic and not is_a(config, evaluator, "CocoPanopticMetric", METRICS)


def _content(files: list[Path]) -> list[Any]:
    """Returns what COCO files contain together, in any order: images, annotations and categories."""
    try:
        parsed = [json.loads(file.read_bytes()) for file in files]
    except ValueError:  # files of other formats are compared by their names only
        return [files]
    keys = ("images", "annotations")
    entries = [sorted((entry for content in parsed for entry in content.get(key, [])), key=repr) for key in keys]
    categories = [content.get("categories") for content in parsed]
    return [*entries, *(each for number, each in enumerate(categories) if each not in categories[:number])]


def names_of_metrics(config: Config) -> list[str] | None:
    """Lists the names of the metrics that a validation computes, the main metric of the task first.

    The main metric is the AP of boxes if the detector predicts boxes, else the AP of masks. The main metric of
    segmentation is mIoU.

    Args:
        config: A complete config.

    Returns:
        The names, as MMEngine logs them. None if an evaluator is not one of MMDetection's ``CocoMetric`` and
        MMSegmentation's ``IoUMetric``, so that the names are unknown.

    Example:
        >>> names_of_metrics(Config({"default_scope": "mmseg", "val_evaluator": {"type": "IoUMetric"}}))
        ['mIoU', 'mAcc', 'aAcc']
    """
    evaluators = config.get("val_evaluator")
    if not evaluators:
        return None
    leaf = next(datasets_in(config.get("val_dataloader")), None)
    names: list[str] = []
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        if is_a(config, evaluator, "CocoMetric", METRICS):
            classes = classes_of(config, leaf) if leaf else []
            own = _names_of_coco(evaluator, classes)
        elif is_a(config, evaluator, "IoUMetric", METRICS):
            given = evaluator.get("iou_metrics", ["mIoU"])
            kinds = [given] if isinstance(given, str) else given
            own = [metric for kind in kinds for metric in _OF_PIXELS.get(kind, ())] + ["aAcc"]
        else:
            return None
        prefix = evaluator.get("prefix") or ("coco" if is_a(config, evaluator, "CocoMetric", METRICS) else "")
        names += [f"{prefix}/{name}" if prefix else name for name in own]
    return list(dict.fromkeys(names))


def _names_of_coco(evaluator: Any, classes: list[str]) -> list[str]:
    given = evaluator.get("metric", "bbox")
    kinds = [given] if isinstance(given, str) else list(given)
    items = evaluator.get("metric_items")
    names = [f"{kind}_{item}" for kind in sorted(kinds) if kind in ("bbox", "segm") for item in items or _OF_OBJECTS]
    if "proposal" in kinds:
        names += items or _OF_PROPOSALS
    if "proposal_fast" in kinds:
        names += [f"AR@{count}" for count in evaluator.get("proposal_nums", (100, 300, 1000))]
    if evaluator.get("classwise"):
        names += [f"{name}_precision" for name in classes]
    return names


def check_named_metrics(config: Config) -> None:
    """Checks that the metrics exist by which a training selects checkpoints, stops early or lowers its rate.

    Args:
        config: A complete config.

    Raises:
        UserError: A validation does not compute the metric, or there is no validation.
    """
    valid = names_of_metrics(config)
    for place, name in _named_metrics(config):
        if not config.get("val_dataloader") or not config.get("val_evaluator"):
            raise UserError(
                f"{place} is {name!r}, but the run has no validation; remove {place}, or add val_dataloader, val_cfg "
                "and val_evaluator to the config."
            )
        if valid is None or name == "auto" or name in valid:
            continue
        similar = nearest(name, valid) or nearest(name, [each.rpartition("/")[2] for each in valid])
        hint = f"Did you mean {next(each for each in valid if each.endswith(similar))!r}? " if similar else ""
        raise UserError(
            f"{place} is {name!r}, but the validation does not compute this metric. {hint}The metrics are "
            f"{', '.join(valid)}."
        )


def _named_metrics(config: Config) -> Iterator[tuple[str, str]]:
    """Iterates over the metrics that hooks and schedules name: the name of the option, and the name of the metric."""
    hooks = [(f"default_hooks.{key}", hook) for key, hook in (config.get("default_hooks") or {}).items()]
    hooks += [(f"custom_hooks.{number}", hook) for number, hook in enumerate(config.get("custom_hooks") or [])]
    for place, hook in hooks:
        if not isinstance(hook, dict):
            continue
        if hook.get("save_best"):
            best = hook["save_best"]
            for name in [best] if isinstance(best, str) else best:
                yield f"{place}.save_best", name
        elif hook.get("monitor") and is_a(config, hook, "EarlyStoppingHook", HOOKS):
            yield f"{place}.monitor", hook["monitor"]
    schedulers = config.get("param_scheduler") or []
    for number, scheduler in enumerate(schedulers if isinstance(schedulers, list) else [schedulers]):
        if isinstance(scheduler, dict) and is_a(config, scheduler, "ReduceOnPlateauParamScheduler", PARAM_SCHEDULERS):
            yield f"param_scheduler.{number}.monitor", scheduler.get("monitor", "loss")
