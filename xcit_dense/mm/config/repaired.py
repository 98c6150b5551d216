"""Points the data sets and evaluators of a config at repaired annotation files."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from xcit_dense.datasets.find_images import ImageFinder
from xcit_dense.datasets.formats.coco import read_json
from xcit_dense.datasets.prepare import prepare
from xcit_dense.datasets.repair import repair
from xcit_dense.mm.config.dataset_class import classes_of, reads_coco
from xcit_dense.mm.config.splits import LOADERS
from xcit_dense.mm.config.walk import datasets_in, dicts_in

_EVALUATORS = ("val_evaluator", "test_evaluator")
_VERSION = 1  # raise this number when repair() changes
_LARGE = 20_000_000  # bytes


def use_repaired(config: Config, loaders: tuple[str, ...], work_dir: str | Path) -> list[str]:
    """Repairs the COCO files of a config (:func:`xcit_dense.datasets.repair.repair`).

    A repaired file is written to ``WORK_DIR/data``, once for all processes and for later runs. Data sets and evaluators
    that read the file are changed. A file without faults is used as it is.

    The config keeps what it had before under ``repaired_data``, so that :func:`restore_data` can undo the change: the
    config of a finished run also serves in another work directory and with another data directory.

    Args:
        config: A complete config, which is changed. ``crowd_as_objects = True`` makes ordinary objects of crowds.
        loaders: The data loaders that the run will use.
        work_dir: The run's work directory.

    Returns:
        Lines to print.

    Raises:
        UserError: An annotation file is not valid JSON.
    """
    crowd = bool(config.get("crowd_as_objects"))
    directories = {_image_directory(leaf) for loader in LOADERS for leaf in datasets_in(config.get(loader))}
    lines = []
    changes: list[dict[str, Any]] = []
    for leaf in (leaf for loader in loaders for leaf in datasets_in(config.get(loader))):
        root = Path(leaf.get("data_root") or "")
        path = root / (leaf.get("ann_file") or "")
        if not path.is_file() or not reads_coco(config, leaf):
            continue  # check_config() names a missing file
        images = _image_directory(leaf)
        if not images.is_dir():
            images = root
        excluded = sorted(str(each.absolute()) for each in directories if each not in (images, *images.parents))
        settings = {
            "version": _VERSION,
            "annotations": str(path.absolute()),
            "root": str(root.absolute()),
            "images": str(images.absolute()),
            "excluded": excluded,
            "classes": classes_of(config, leaf),
            "masks": _needs_masks(config, leaf),
        }
        # A work directory receives no file for small files without faults. Large files are read once for all processes.
        if path.stat().st_size < _LARGE and not _repair(path, images, settings, crowd)[1]:
            continue
        made = _prepare(Path(work_dir).absolute() / "data", path, images, settings, crowd)
        notes = json.loads((made / "notes.json").read_text("utf-8"))
        if not notes:
            continue
        repaired = str(made / path.name)
        prefix = leaf.setdefault("data_prefix", {})
        change = {"repaired": repaired, "ann_file": leaf.ann_file, "img": prefix.get("img") or "", "evaluators": {}}
        leaf.ann_file = repaired
        if images == root:
            prefix["img"] = ""
        for name in _EVALUATORS:
            for node in dicts_in(config.get(name)):
                file = node.get("ann_file")
                if file and Path(file).is_file() and filecmp.cmp(path, file, shallow=False):
                    change["evaluators"][name] = node["ann_file"]
                    node["ann_file"] = repaired
        if repaired not in [each["repaired"] for each in changes]:
            changes.append(change)
            lines += [f"{path} is read with repairs, from {repaired}:", *(f"  {note}" for note in notes)]
    if changes:
        config.repaired_data = changes
    return lines


def restore_data(config: Config) -> None:
    """Undoes :func:`use_repaired` in the config of a finished run.

    Args:
        config: A complete config, which is changed.
    """
    for change in config.pop("repaired_data", None) or ():
        for leaf in (leaf for loader in LOADERS for leaf in datasets_in(config.get(loader))):
            if leaf.get("ann_file") == change["repaired"]:
                leaf.ann_file = change["ann_file"]
                leaf.data_prefix["img"] = change["img"]
        for name in _EVALUATORS:
            for node in dicts_in(config.get(name)):
                if node.get("ann_file") == change["repaired"]:
                    node["ann_file"] = change["evaluators"][name]


def find_original(config: Config, leaf: Any) -> Path:
    """Finds the annotation file that the user gave for a data set, whether or not it was repaired.

    Args:
        config: The complete config.
        leaf: The data set's config.
    """
    file = leaf.ann_file
    for change in config.get("repaired_data") or ():
        if change["repaired"] == file:
            file = change["ann_file"]
    return Path(leaf.get("data_root") or "", file)


def _repair(path: Path, images: Path, settings: dict[str, Any], crowd: bool) -> tuple[Any, list[str]]:
    """Returns the repaired content of a file, and the notes."""
    content = read_json(path)
    if not isinstance(content, dict):
        return content, []  # the check reports the fault
    # Without a root, the current directory would be searched, which may contain any number of files.
    others = [each for each in (images, Path(settings["root"])) if each.absolute() != Path.cwd()]
    finder = ImageFinder(images, others, [Path(each) for each in settings["excluded"]])
    return repair(content, finder, classes=settings["classes"], masks=settings["masks"], crowd_as_objects=crowd)


def _prepare(directory: Path, path: Path, images: Path, settings: dict[str, Any], crowd: bool) -> Path:
    """Returns a directory with the notes of a repair, and with the repaired file if there are notes."""

    def write(part: Path) -> None:
        repaired, notes = _repair(path, images, settings, crowd)
        if notes:
            (part / path.name).write_text(json.dumps(repaired), "utf-8")
        (part / "notes.json").write_text(json.dumps(notes), "utf-8")

    sources = [path, images] if images.is_dir() else [path]  # the time of a directory changes with its files
    return prepare(directory, path.stem, sources, {**settings, "crowd_as_objects": crowd}, write)


def _image_directory(leaf: Any) -> Path:
    return Path(leaf.get("data_root") or "", (leaf.get("data_prefix") or {}).get("img") or "")


def _needs_masks(config: Config, leaf: Any) -> bool:
    """Whether a run reads or evaluates the masks of a data set."""
    if any(node.get("with_mask") for node in dicts_in(leaf.get("pipeline"))):
        return True
    metrics = [node.get("metric") for name in _EVALUATORS for node in dicts_in(config.get(name))]
    return any("segm" in metric for metric in metrics if isinstance(metric, str | list | tuple))
