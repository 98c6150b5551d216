"""Formats that are recognised but not read: each is named, with the export to choose instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xcit_dense.datasets.formats.coco_files import coco_files
from xcit_dense.errors import UserError
from xcit_dense.utils.files import visible_files

_START = 4096  # this many characters show the format of a text file


def explain(path: Path) -> str | None:
    """Recognises a format that is not read.

    Args:
        path: The data directory or file.

    Returns:
        A sentence that names the format and the export to choose instead. None if the format is unknown.

    Example:
        >>> _ = Path("a.tfrecord").write_text("")
        >>> explain(Path("."))
        'a.tfrecord is a TFRecord, which is not read; export as COCO, YOLO or Pascal VOC.'
    """
    for recognise, advice in _REFUSED:
        file = recognise(path)
        if file is not None:
            return f"{file} {advice}"
    return None


def _named(*names: str) -> Callable[[Path], Path | None]:
    """Recognises a format by the name of a file."""

    def recognise(path: Path) -> Path | None:
        return next((file for file in _files(path) if file.name in names), None)

    return recognise


def _cvat_xml(path: Path) -> Path | None:
    for file in _files(path):
        if file.suffix.lower() == ".xml" and "<annotations>" in _start(file):
            return file
    return None


def _supervisely(path: Path) -> Path | None:
    for file in _files(path):
        if file.name == "meta.json" and {"classes", "tags"} <= _keys(file):
            return file
    return None


def _datumaro(path: Path) -> Path | None:
    return next((file for file in _json_files(path) if {"categories", "items"} <= _keys(file)), None)


def _label_studio(path: Path) -> Path | None:
    for file in _json_files(path):
        content = _load(file)
        first = content[0] if isinstance(content, list) and content else None
        if isinstance(first, dict) and "data" in first and ("annotations" in first or "completions" in first):
            return file
    return None


def _via(path: Path) -> Path | None:
    for file in _json_files(path):
        content = _load(file)
        if isinstance(content, dict):
            entries = content.get("_via_img_metadata", content)
            first = next(iter(entries.values()), None) if isinstance(entries, dict) else None
            if isinstance(first, dict) and "regions" in first and "filename" in first:
                return file
    return None


def _create_ml(path: Path) -> Path | None:
    return next((file for file in _json_files(path) if file.name.endswith("createml.json")), None)


def _box_table(path: Path) -> Path | None:
    for file in _files(path):
        if file.suffix.lower() == ".csv" and {"xmin", "ymin"} <= set(_start(file).lower().split("\n")[0].split(",")):
            return file
    return None


def _records(path: Path) -> Path | None:
    return next((file for file in _files(path) if file.suffix == ".tfrecord"), None)


def _coco_without_images(path: Path) -> Path | None:
    try:
        found = coco_files(path) if path.is_dir() else []
    except UserError:
        return None
    return found[0] if found else None


_REFUSED: tuple[tuple[Callable[[Path], Path | None], str], ...] = (
    (
        _coco_without_images,
        "is in COCO's format, but no image that it names is below the data directory; put the images there (in CVAT "
        "turn on Save images in the export), or write the directory that contains images and annotations.",
    ),
    (_cvat_xml, "is in CVAT's own format, which is not read; export from CVAT as COCO 1.0 with Save images."),
    (
        _supervisely,
        "is in Supervisely's own format, which is not read; export from Supervisely with the app Export to COCO or "
        "Convert Supervisely to YOLO.",
    ),
    (
        _named("metadata.jsonl", "metadata.csv", "metadata.parquet"),
        "is in Hugging Face's format imagefolder, which is not read; save the data as COCO, YOLO or Pascal VOC, for "
        "example with DetectionDataset.as_coco of the library supervision.",
    ),
    (_datumaro, "is in Datumaro's own format, which is not read; write datum convert -f coco_instances --save-media."),
    (
        _label_studio,
        "is in Label Studio's own format, which is not read; export from Label Studio as COCO or YOLO with images.",
    ),
    (_via, "is in VIA's own format, which is not read; export from VIA as COCO."),
    (_create_ml, "is in CreateML's format, which is not read; export as COCO."),
    (_box_table, "is a table of boxes, which is not read; export as COCO, YOLO or Pascal VOC."),
    (_records, "is a TFRecord, which is not read; export as COCO, YOLO or Pascal VOC."),
)


def _files(path: Path) -> list[Path]:
    return list(visible_files(path)) if path.is_dir() else [path]


def _json_files(path: Path) -> list[Path]:
    return [file for file in _files(path) if file.suffix.lower() == ".json"][:20]


def _start(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(_START)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _keys(path: Path) -> set[str]:
    content = _load(path)
    return set(content) if isinstance(content, dict) else set()
