"""Tables of run-length codes, as Kaggle's competitions have them: a line for each object."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from xcit_dense.datasets.formats.files import FileIndex, is_image, split_of
from xcit_dense.datasets.formats.objects import Content, ContentBuilder, Notes, ObjectData, SplitReader
from xcit_dense.errors import UserError
from xcit_dense.utils.files import visible_files
from xcit_dense.utils.progress import tracked

# The names of columns in lower case, without underscores.
_CODES = ("encodedpixels", "rle", "rlemask", "annotation", "segmentation")
_IMAGES = ("imageid", "image", "filename", "img", "id", "imageidclassid", "imagelabel")
_CLASSES = ("classid", "class", "label", "category", "categoryid", "celltype")
_BOTH = ("imageidclassid", "imagelabel")  # a single column with image_class
_NOTHING = ("", "-1", "nan")  # an image without objects


def find(path: Path) -> ObjectData | None:
    r"""Finds a table of run-length codes, and the images that it names.

    A code has pairs of numbers: the first pixel of a run, counted from 1 column by column, and the length of the run.

    Args:
        path: The data directory, or a CSV file in it.

    Returns:
        The data set. None if the directory has another format.

    Raises:
        UserError: The directory has this format, but a fault.

    Example:
        >>> from PIL import Image
        >>> Path("table").mkdir()
        >>> Image.new("RGB", (4, 3)).save("table/a.png")
        >>> _ = Path("table/train.csv").write_text("ImageId,EncodedPixels,ClassId\na.png,4 3 7 2,cat\n")
        >>> find(Path("table")).splits["train"]()["annotations"][0]["bbox"]
        [1.0, 0.0, 2.0, 3.0]
    """
    root = path.parent if path.is_file() else path
    tables: dict[str, Path] = {}
    for table in [path] if path.is_file() else sorted(root.glob("*.csv")):
        if table.name.startswith((".", "sample_submission")) or _columns(table) is None:
            continue
        split = split_of(f"{table.stem}/image") or "train"
        if split in tables:
            raise UserError(
                f"{root} has several tables of run-length codes for {split} ({tables[split].name}, {table.name}); "
                f"write one of them, such as --data-root {table}."
            )
        tables[split] = table
    if not tables:
        return None
    notes = Notes()
    images = [image for image in visible_files(root) if is_image(image)]
    reader = _Reader(root, tables, images, notes)
    splits = reader.readers(tables)
    return ObjectData("CSV with run-length codes", root, splits, [*tables.values(), *images], notes=notes)


def _columns(table: Path) -> tuple[str, str, str | None] | None:
    """The names of the columns of images, codes and classes. None if the table has other columns."""
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        header = next(csv.reader(file), [])
    names = {name.strip().lower().replace("_", "").replace(" ", ""): name for name in header}
    image = next((names[name] for name in _IMAGES if name in names), None)
    code = next((names[name] for name in _CODES if name in names), None)
    label = next((names[name] for name in _CLASSES if name in names), None)
    return None if image is None or code is None else (image, code, label)


class _Reader(SplitReader):
    """Reads the splits of a data set. All tables are read once, because they decide the classes."""

    def __init__(self, root: Path, tables: Mapping[str, Path], images: Sequence[Path], notes: Notes) -> None:
        super().__init__(root, notes)
        self.tables = tables
        self.images = images

    def _read(self) -> dict[str, Content]:
        read = {split: _read_rows(table) for split, table in self.tables.items()}
        labels = {label for rows in read.values() for _, _, label in rows if label is not None}
        numbers = all(label.isdecimal() for label in labels)
        ordered = sorted(labels, key=int) if numbers else sorted(labels)
        names = [f"class {label}" if numbers else label for label in ordered] or ["object"]
        index = FileIndex(self.root, self.images)
        return {split: self._build(self.tables[split], rows, ordered, names, index) for split, rows in read.items()}

    def _build(
        self,
        table: Path,
        rows: Sequence[tuple[str, str, str | None]],
        labels: Sequence[str],
        names: Sequence[str],
        index: FileIndex,
    ) -> Content:
        builder = ContentBuilder(self.root, names)
        by_image: dict[str, list[tuple[int, str, str | None]]] = {}
        for line, (image, code, label) in enumerate(rows, start=2):
            by_image.setdefault(image, []).append((line, code, label))
        for image, objects in tracked("images read", list(by_image.items())):
            found = index.find(image, table.stem)
            if found is None:
                builder.fault("images that are not below the data directory, or are there twice", image)
                continue
            size = builder.add_image(found)
            if size is None:
                continue
            for line, code, label in objects:
                if code.lower() in _NOTHING:
                    continue
                runs = _runs(code, size[0] * size[1])
                if isinstance(runs, str):
                    builder.fault(f"run-length codes {runs}", f"{table.name}, line {line}")
                    continue
                builder.add_runs(0 if label is None else labels.index(label), runs)
        return builder.build(f"{table} with run-length codes")


def _read_rows(table: Path) -> list[tuple[str, str, str | None]]:
    """The image, the code and the class of each line."""
    columns = _columns(table)
    assert columns is not None
    image, code, label = columns
    is_both = image.lower().replace("_", "") in _BOTH
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # codes of large masks exceed the default
    rows = []
    with table.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            name, kind = (row[image] or "").strip(), (row.get(label or "") or "").strip() or None
            if is_both:
                name, _, kind = name.rpartition("_")
            rows.append((name, (row[code] or "").strip(), kind))
    return rows


def _runs(code: str, pixels: int) -> list[int] | str:
    """COCO's counts of a code, or the words for what is wrong with the code."""
    words = code.split()
    if len(words) % 2 or not all(word.isdecimal() for word in words):
        return "that are not pairs of numbers"
    numbers = list(map(int, words))
    runs = sorted(zip(numbers[::2], numbers[1::2]))
    counts = []
    end = 0  # pixels counted so far
    for start, length in runs:
        if start - 1 < end:
            return "whose runs overlap, or begin with 0 instead of 1"
        counts += [start - 1 - end, length]
        end = start - 1 + length
    if end > pixels:
        return "that reach beyond the image"
    return [*counts, pixels - end]
