"""Data sets in YOLO's format: a text file for each image, with a line for each box or polygon."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from xcit_dense.datasets.formats.files import is_image
from xcit_dense.datasets.formats.objects import Content, ContentBuilder, Notes, ObjectData, SplitReader, without_masks
from xcit_dense.datasets.formats.splits import SPLITS
from xcit_dense.errors import UserError
from xcit_dense.utils.files import visible_files
from xcit_dense.utils.progress import tracked

# Directories that may contain the images of a split where no file names them. The labels are found from the images.
_DIRECTORIES = ("images/{}", "{}/images", "{}")
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "train/_darknet.labels")
_TOLERANCE = 0.01  # rounding may move a point beyond the image by this share of the image's side


def find(path: Path) -> ObjectData | None:
    r"""Finds a data set in YOLO's format.

    Args:
        path: The data directory, or a file like ``data.yaml``.

    Returns:
        The data set. None if the directory has another format.

    Raises:
        UserError: The directory has this format, but a fault.

    Example:
        >>> for name, text in (("a.txt", "1 0.5 0.5 0.2 0.4"), ("classes.txt", "cat\ndog")):
        ...     path = Path("yolo/labels" if name == "a.txt" else "yolo", name)
        ...     path.parent.mkdir(parents=True, exist_ok=True)
        ...     _ = path.write_text(text)
        >>> from PIL import Image
        >>> Path("yolo/images").mkdir()
        >>> Image.new("RGB", (100, 50)).save("yolo/images/a.png")
        >>> data = find(Path("yolo"))
        >>> data.splits["train"]()["annotations"][0]["bbox"]
        [40.0, 15.0, 20.0, 20.0]
    """
    root = path.parent if path.is_file() else path
    description = path if path.is_file() else _find_description(path)
    notes = Notes()
    if description is not None:
        described = _read_yaml(description)
        splits = {split: _images_of(described, split, notes) for split in SPLITS}
        classes, keypoints, sources = described.classes, described.keypoints, [description]
        if not splits["train"]:
            raise UserError(
                f"{description} names no existing images for training (train: {described.entries.get('train')}); "
                "write the directory of the images, relative to the file."
            )
    else:
        names = next((root / name for name in _NAMES if (root / name).is_file()), None)
        splits = _find_images(root, names is not None)
        if not any(
            _label_of(image).is_file() and _is_label(_label_of(image)) for image in splits.get("train", [])[:20]
        ):
            return None
        if names is None:
            raise UserError(
                f"{root} has YOLO's label files, but no file with the names of the classes; write data.yaml, or "
                "classes.txt with one name a line."
            )
        classes, keypoints, sources = _read_names(names), False, [names]
    root = _common_root(root, splits)
    labels = [_label_of(image) for images in splits.values() for image in images]
    sources += [path for images in splits.values() for path in images] + [path for path in labels if path.is_file()]
    if not any(label.is_file() for label in labels):
        raise UserError(
            f"None of the {len(labels):,} images in {root} has a label file in YOLO's format; looked for {labels[0]}."
        )
    _note_lonely_labels(set(labels), root, notes)
    reader = _Reader(root, tuple(classes), keypoints, {s: images for s, images in splits.items() if images}, notes)
    return ObjectData("YOLO", root, reader.readers(reader.splits), sources, notes=notes)


@dataclass(frozen=True)
class _Description:
    """The content of a file like data.yaml."""

    path: Path
    entries: Mapping[str, Any]
    classes: list[str]
    keypoints: bool


def _find_description(root: Path) -> Path | None:
    found = []
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        entries = _load(path)
        if isinstance(entries, dict) and "names" in entries and "train" in entries:
            found.append(path)
    usual = [path for path in found if path.name in ("data.yaml", "data.yml", "dataset.yaml")]
    if len(found) > 1 and len(usual) != 1:
        raise UserError(
            f"{root} has several descriptions of data in YOLO's format ({', '.join(path.name for path in found)}); "
            f"write one of them, such as --data-root {found[0]}."
        )
    return next(iter(usual or found), None)


def _load(path: Path) -> Any:
    try:
        # This loader reads every value as text, so that a class with the name no does not become False.
        return yaml.load(path.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error


def _read_yaml(path: Path) -> _Description:
    entries = _load(path)
    if not isinstance(entries, dict) or "names" not in entries:
        raise UserError(
            f"{path} does not describe data in YOLO's format; write train: DIRECTORY and names: [a, b, c] in the file."
        )
    names = entries["names"]
    if isinstance(names, dict):
        numbered = [str(number) for number in range(len(names))]
        if sorted(names) != sorted(numbered):
            raise UserError(
                f"{path} has names with the numbers {', '.join(names)}; number the names 0, 1, 2 and so on."
            )
        names = [names[number] for number in numbered]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has names that are not a list; write names: [a, b, c].")
    classes = _check_names(path, names)
    if "nc" in entries and str(entries["nc"]) != str(len(classes)):
        raise UserError(f"{path} has nc: {entries['nc']}, but {len(classes)} names; write nc: {len(classes)}.")
    return _Description(path, entries, classes, "kpt_shape" in entries)


def _read_names(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _check_names(path, lines)


def _check_names(path: Path, names: Sequence[str]) -> list[str]:
    names = [name.strip() for name in names]
    if not names or "" in names or len(set(names)) < len(names):
        raise UserError(
            f"{path} has no class names, an empty name, or a name twice; give each class a name of its own."
        )
    return names


def _images_of(described: _Description, split: str, notes: Notes) -> list[Path]:
    """The images of a split of a data.yaml."""
    value = next((described.entries[name] for name in SPLITS[split] if described.entries.get(name)), None)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    directory = described.path.parent
    # The path may come from another machine. Then the file itself is in the data directory.
    base = directory / str(described.entries.get("path") or "")
    images: list[Path] = []
    for entry in values:
        found = _locate(str(entry), (base, directory))
        if found is None:
            # Roboflow names all three splits, also those that it does not export.
            notes.add(f"places that {described.path.name} names and that do not exist", f"{split}: {entry}")
            continue
        images += _list(found) if found.is_file() else _images_in(found)
    return images


def _locate(entry: str, bases: Sequence[Path]) -> Path | None:
    entry = entry.replace("\\", "/")
    for base in bases:
        # Roboflow writes ../train/images and means train/images.
        for name in (entry, entry.removeprefix("../")):
            if (base / name).exists():
                return base / name
    return None


def _list(path: Path) -> list[Path]:
    """The images that a text file lists, one a line."""
    images = []
    for line in path.read_text("utf-8-sig").splitlines():
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        # Darknet's lists begin with a directory of the training machine, such as data/.
        parts = PurePosixPath(name).parts
        endings = [Path(*parts[number:]) for number in range(len(parts))]
        found = next((path.parent / ending for ending in endings if (path.parent / ending).is_file()), None)
        if found is None:
            raise UserError(f"{path} lists {name}, which does not exist; write paths relative to the file.")
        images.append(found)
    return images


def _images_in(directory: Path) -> list[Path]:
    return [path for path in visible_files(directory) if is_image(path)]


def _find_images(root: Path, has_names: bool) -> dict[str, list[Path]]:
    """The images of each split, where no file describes the data."""
    if (root / "train.txt").is_file():  # darknet
        listed = {split: [root / f"{name}.txt" for name in names] for split, names in SPLITS.items()}
        return {split: _list(path) for split, paths in listed.items() for path in paths if path.is_file()}
    for pattern in _DIRECTORIES:
        splits = {}
        for split, names in SPLITS.items():
            directory = next(
                (root / pattern.format(name) for name in names if (root / pattern.format(name)).is_dir()), None
            )
            if directory is not None:
                splits[split] = _images_in(directory)
        if splits.get("train"):
            return splits
    if (root / "images").is_dir():
        return {"train": _images_in(root / "images")}
    # Without names, a directory below may be the data directory.
    return {"train": [path for path in _images_in(root) if has_names or path.parent == root]}


def _label_of(image: Path) -> Path:
    """The label file of an image: in the directory labels instead of the last images, or else next to the image."""
    parts = list(image.parts)
    for number in reversed(range(len(parts) - 1)):
        if parts[number] == "images":
            parts[number] = "labels"
            moved = Path(*parts).with_suffix(".txt")
            return moved if moved.is_file() or not image.with_suffix(".txt").is_file() else image.with_suffix(".txt")
    return image.with_suffix(".txt")


def _is_label(path: Path) -> bool:
    """Whether the first line of a file is an object in YOLO's format."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        values = file.readline().split()
    return len(values) >= 5 and all(map(_is_number, values))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _common_root(root: Path, splits: Mapping[str, Sequence[Path]]) -> Path:
    """The data directory, or a directory above it that contains all images."""
    for images in splits.values():
        for image in images:
            while not image.is_relative_to(root):
                root = root.parent
    return root


def _note_lonely_labels(labels: set[Path], root: Path, notes: Notes) -> None:
    for directory in sorted({label.parent for label in labels if label.is_file()}):
        for path in sorted(directory.glob("*.txt")):
            if path not in labels and path.name not in _NAMES and _is_label(path):
                notes.add("label files without an image, which are passed over", path.relative_to(root).as_posix())


class _Reader(SplitReader):
    """Reads the splits of a data set, each once."""

    def __init__(
        self,
        root: Path,
        classes: tuple[str, ...],
        keypoints: bool,
        splits: Mapping[str, Sequence[Path]],
        notes: Notes,
    ) -> None:
        super().__init__(root, notes)
        self.classes = classes
        self.keypoints = keypoints
        self.splits = splits

    def _read(self) -> dict[str, Content]:
        contents = {split: self._read_split(split) for split in self.splits}
        annotations = [each for content in contents.values() for each in content["annotations"]]
        without = sum(not annotation["segmentation"] for annotation in annotations)
        if 0 < without < len(annotations):
            self.notes.add(
                "data sets with boxes next to polygons, of which only the boxes are used",
                f"{without:,} of {len(annotations):,} objects have no polygon",
            )
            contents = {split: without_masks(content) for split, content in contents.items()}
        return contents

    def _read_split(self, split: str) -> Content:
        builder = ContentBuilder(self.root, self.classes)
        for image in tracked(f"images of {split} read", self.splits[split]):
            size = builder.add_image(image.relative_to(self.root).as_posix())
            label = _label_of(image)
            if size is None or not label.is_file():
                continue
            for number, line in enumerate(label.read_text("utf-8-sig").splitlines(), start=1):
                if line.strip():
                    where = f"{label.relative_to(self.root).as_posix()}, line {number}"
                    self._add_line(builder, line.split(), size, where)
        return builder.build(f"{self.root} in YOLO's format")

    def _add_line(self, builder: ContentBuilder, words: Sequence[str], size: tuple[int, int], where: str) -> None:
        if not all(map(_is_number, words)):
            builder.fault("lines with values that are not numbers", where)
            return
        label, *values = map(float, words)
        if self.keypoints:
            if len(values) > 4:
                self.notes.add("objects with keypoints, of which only the boxes are used", where)
            values = values[:4]
        if label not in range(len(self.classes)):
            builder.fault(f"objects of classes other than 0 to {len(self.classes) - 1}", f"{where}: {words[0]}")
            return
        is_polygon = len(values) >= 6 and len(values) % 2 == 0
        if len(values) != 4 and not is_polygon:
            builder.fault(
                "lines that are neither a class and a box (5 numbers) nor a class and a polygon (7, 9, 11 or more)",
                f"{where}: {len(words)} numbers",
            )
            return
        if min(values) < -_TOLERANCE or max(values) > 1 + _TOLERANCE:
            builder.fault("objects whose coordinates are not shares of the image's size, from 0 to 1", where)
            return
        width, height = size
        if is_polygon:
            shares = [min(max(value, 0.0), 1.0) for value in values]
            builder.add_polygons(
                int(label), [[share * (height if number % 2 else width) for number, share in enumerate(shares)]]
            )
        else:
            x, y, w, h = values
            builder.add_box(int(label), [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height])
