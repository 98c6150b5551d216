"""Data sets in Pascal VOC's format: an XML file with boxes for each image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from xcit_dense.datasets.formats.files import FileIndex, is_image, split_of
from xcit_dense.datasets.formats.objects import Content, ContentBuilder, Notes, ObjectData, SplitReader, check_named
from xcit_dense.datasets.formats.splits import SPLITS
from xcit_dense.utils.files import visible_files
from xcit_dense.utils.progress import tracked

_START = 4096  # this many characters show the format of an XML file
_TRIED = 5  # XML files
_LISTS = ("ImageSets/Main", "ImageSets/Segmentation", "ImageSets/Layout", "ImageSets")


def find(root: Path) -> ObjectData | None:
    """Finds a data set in Pascal VOC's format.

    The lists in ``ImageSets`` give the splits, or else the names of directories. ``labelmap.txt`` gives the classes, or
    else the XML files.

    Args:
        root: The data directory.

    Returns:
        The data set. None if the directory has another format.

    Raises:
        UserError: The directory has this format, but a fault.

    Example:
        >>> box = "<xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax>"
        >>> text = f"<annotation><filename>a.png</filename><object><name>cat</name><bndbox>{box}</bndbox></object>"
        >>> Path("voc").mkdir()
        >>> _ = Path("voc/a.xml").write_text(text + "</annotation>")
        >>> from PIL import Image
        >>> Image.new("RGB", (30, 30)).save("voc/a.png")
        >>> find(Path("voc")).splits["train"]()["annotations"][0]["bbox"]
        [0.0, 0.0, 10.0, 20.0]
    """
    files = list(visible_files(root))
    annotations = [path for path in files if path.suffix.lower() == ".xml"]
    if not any(map(_is_voc, annotations[:_TRIED])):
        return None
    notes = Notes()
    splits, lists = _listed_splits(root, annotations, notes)
    if not splits:
        for path in annotations:
            split = split_of(path.relative_to(root).as_posix()) or "train"
            splits.setdefault(split, []).append(path)
    images = [path for path in files if is_image(path)]
    label_map = root / "labelmap.txt"
    classes = _read_label_map(label_map) if label_map.is_file() else None
    reader = _Reader(root, splits, FileIndex(root, images), classes, notes)
    sources = [*annotations, *images, *lists, *([label_map] if classes else [])]
    return ObjectData("Pascal VOC", root, reader.readers(splits), sources, notes=notes)


def _is_voc(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        start = file.read(_START)
    return "<annotation>" in start or "<annotation " in start


def _listed_splits(root: Path, annotations: Sequence[Path], notes: Notes) -> tuple[dict[str, list[Path]], list[Path]]:
    """The annotation files of each split by the lists in ImageSets, and the lists."""
    splits: dict[str, list[Path]] = {}
    lists: list[Path] = []
    # VOCdevkit has a directory for each year.
    tops = sorted({parent.parent for path in annotations for parent in path.parents if parent.name == "Annotations"})
    listed: set[Path] = set()
    for top in tops:
        directory = next((top / name for name in _LISTS if any((top / name).glob("*.txt"))), None)
        if directory is None:
            continue
        by_split = {split: _read_lists(directory, names) for split, names in SPLITS.items()}
        if not by_split["train"]:
            held_out = set(by_split["val"])
            by_split["train"] = [name for name in _read_lists(directory, ("trainval",)) if name not in held_out]
        lists += [path for path in directory.glob("*.txt") if path.stem in ("trainval", *sum(SPLITS.values(), ()))]
        for split, names in by_split.items():
            for name in names:
                path = top / "Annotations" / f"{name}.xml"
                if path.is_file():
                    splits.setdefault(split, []).append(path)
                    listed.add(path)
                else:
                    notes.add("images in ImageSets without an XML file, which are passed over", name)
    for path in annotations if splits else ():
        if path not in listed:
            notes.add("XML files in no list of ImageSets, which are passed over", path.relative_to(root).as_posix())
    return splits, lists


def _read_lists(directory: Path, names: Sequence[str]) -> list[str]:
    path = next((directory / f"{name}.txt" for name in names if (directory / f"{name}.txt").is_file()), None)
    if path is None:
        return []
    lines = (line.strip() for line in path.read_text("utf-8-sig").splitlines())
    # Lists for a single class have a second column. CVAT writes names with spaces in quotation marks.
    return [line.strip('"') if line.startswith('"') else line.split()[0] for line in lines if line]


def _read_label_map(path: Path) -> list[str]:
    """The names in CVAT's labelmap.txt, with lines like ``person:128,0,0::``."""
    lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    return [line.split(":")[0] for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class _Object:
    """An object: the name of its class, its corners x0, y0, x1, y1, and whether it is marked as difficult."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Annotation:
    """The content of an XML file. The image is relative to the data directory, and None if it is missing."""

    image: str | None
    size: tuple[int, int] | None
    objects: list[_Object]


class _Reader(SplitReader):
    """Reads the splits of a data set. All XML files are read once, because they decide classes and coordinates."""

    def __init__(
        self,
        root: Path,
        splits: Mapping[str, Sequence[Path]],
        images: FileIndex,
        classes: list[str] | None,
        notes: Notes,
    ) -> None:
        super().__init__(root, notes)
        self.splits = splits
        self.images = images
        self.classes = classes

    def _read(self) -> dict[str, Content]:
        faults = ContentBuilder(self.root, [])
        read = {
            split: [self._parse(path, faults) for path in tracked(f"XML files of {split} read", paths)]
            for split, paths in self.splits.items()
        }
        faults.build(f"{self.root} in Pascal VOC's format")
        objects = [each for annotations in read.values() for annotation in annotations for each in annotation.objects]
        used = {each.name for each in objects}
        classes = sorted(used)
        if self.classes is not None:
            # CVAT and Pascal VOC name the background too, which has no boxes.
            classes = [name for name in self.classes if name != "background" or name in used]
            check_named(self.root / "labelmap.txt", classes, used, "XML")
        first = self._first_pixel(objects)
        return {split: self._build(annotations, classes, first) for split, annotations in read.items()}

    def _first_pixel(self, objects: Sequence[_Object]) -> int:
        """The coordinate of the first pixel: 1 in Pascal VOC, where corners are pixels; 0 where corners are points."""
        for each in objects:
            if min(each.corners[:2]) < 1 or any(value != int(value) for value in each.corners):
                self.notes.add(
                    "data sets in Pascal VOC's format whose coordinates begin with 0 instead of 1",
                    f"a {each.name} has {', '.join(f'{value:g}' for value in each.corners)}",
                )
                return 0
        return 1

    def _build(self, annotations: Sequence[_Annotation], classes: Sequence[str], first: int) -> Content:
        builder = ContentBuilder(self.root, classes)
        numbers = {name: number for number, name in enumerate(classes)}
        for annotation in annotations:
            if annotation.image is None or builder.add_image(annotation.image, annotation.size) is None:
                continue
            for each in annotation.objects:
                x0, y0, x1, y1 = each.corners
                box = [x0 - first, y0 - first, x1 - x0 + first, y1 - y0 + first]
                builder.add_box(numbers[each.name], box, crowd=each.difficult)
                if each.difficult:
                    self.notes.add(
                        "objects marked as difficult, which training and evaluation ignore", f"{annotation.image}"
                    )
        return builder.build(f"{self.root} in Pascal VOC's format")

    def _parse(self, path: Path, faults: ContentBuilder) -> _Annotation:
        where = path.relative_to(self.root).as_posix()
        try:
            tree = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as error:
            faults.fault("files that are not valid XML", f"{where}: {error}")
            return _Annotation(None, None, [])
        near = path.relative_to(self.root).parent.as_posix()
        image = self.images.find(tree.findtext("filename") or path.stem, near) or self.images.find(path.stem, near)
        if image is None:
            faults.fault("XML files without their image", where)
            return _Annotation(None, None, [])
        objects = []
        for node in tree.iter("object"):
            name = (node.findtext("name") or "").strip()
            corners = [_number(node.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
            if not name or not all(map(math.isfinite, corners)):
                faults.fault("objects without a name or without a bndbox of four numbers", where)
                continue
            x0, y0, x1, y1 = corners
            if x1 < x0 or y1 < y0:
                faults.fault("objects whose xmax or ymax is less than xmin or ymin", f"{where}: {name}")
                continue
            objects.append(_Object(name, (x0, y0, x1, y1), (node.findtext("difficult") or "0").strip() == "1"))
        width, height = (_number(tree.findtext(f"size/{key}")) for key in ("width", "height"))
        size = (int(width), int(height)) if width > 0 and height > 0 else None
        return _Annotation(image, size, objects)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
