"""Data sets of COCO files, wherever the files and their images are below the data directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath

from xcit_dense.datasets.formats.coco import find_coco, import_ijson, read_json
from xcit_dense.datasets.formats.files import FileIndex, is_image, split_of
from xcit_dense.datasets.formats.objects import Content, Notes, ObjectData, select_images
from xcit_dense.datasets.formats.splits import SAMPLE_NAMES, Split
from xcit_dense.datasets.repair import repair
from xcit_dense.errors import UserError
from xcit_dense.utils.files import visible_files

# COCO publishes these files too. They describe other tasks, or have no annotations.
_OTHER_TASKS = ("keypoints", "captions", "panoptic", "stuff", "image_info")


def find(path: Path) -> ObjectData | None:
    """Finds the COCO files of a data set.

    The usual layouts of :mod:`xcit_dense.datasets.formats.coco` come first. Otherwise any COCO file is taken: its split
    is the name of a split in its path, and its images are those below the data directory with the names in the file.

    Args:
        path: The data directory, or a COCO file.

    Returns:
        The data set. None if there are no COCO files, or no images that the files name.

    Raises:
        UserError: Several files describe the same split, or a file is not valid JSON.

    Example:
        >>> from xcit_dense.datasets.shapes import write_shapes
        >>> root = write_shapes("coco", train=2, val=1, size=64)
        >>> data = find(root)
        >>> data.splits["val"]()["images"][0]["file_name"]
        'val2017/000000000001.jpg'
        >>> data.files["val"].annotations
        'annotations/instances_val2017.json'
    """
    if path.is_file():
        if not is_coco(path):
            return None
        # The images may also be next to the directory of the file.
        return _describe(path.parent, {"train": path}, Notes()) or _describe(
            path.parent.parent, {"train": path}, Notes()
        )
    usual = None
    with suppress(UserError):  # another layout; a damaged file is refused below
        usual = find_coco(path)
    if usual is not None:
        found = {split: path / place.annotations for split, place in usual.splits.items()}
        return _describe(path, found, Notes(), usual.splits)
    notes = Notes()
    found = _find_files(path, notes)
    if not found:
        return None
    usual_roots = {_usual_root(path, file) for file in found.values()}
    # Archives often have one directory around the data. Other data next to it may have images of the same names.
    if len(usual_roots) == 1:
        (usual_root,) = usual_roots
        data = find(usual_root) if usual_root else None
        if data:
            return data
    return _describe(path, found, notes)


def coco_files(root: Path) -> list[Path]:
    """Lists the COCO files in and below a directory.

    Args:
        root: The directory.

    Raises:
        UserError: There are no COCO files, but a JSON file that is not valid.
    """
    import_ijson()
    found = []
    damaged = None
    files = list(visible_files(root))
    images = {path for path in files if is_image(path)}
    images |= {path.with_suffix("") for path in images}
    for path in files:
        # A JSON file with the name of an image next to it belongs to this image only.
        if path.suffix.lower() != ".json" or path.with_suffix("") in images:
            continue
        try:
            if is_coco(path):
                found.append(path)
        except UserError as error:
            damaged = damaged or error
    if damaged and not found:
        raise damaged
    return found


def is_coco(path: Path) -> bool:
    """Whether a JSON file has the lists of COCO's format. Reads no more of the file than necessary.

    Args:
        path: The file.

    Raises:
        UserError: The file is not valid JSON.
    """
    ijson = import_ijson()
    signs = {"images.item.file_name", "images.item.coco_url", "annotations.item.image_id"}
    try:
        with path.open("rb") as file:
            for prefix, event, value in ijson.parse(file):
                if prefix in signs:
                    return True
                # The next entries of a list have the same keys.
                if event == "end_map" and prefix in ("images.item", "annotations.item"):
                    return False
                if prefix == "" and event not in ("start_map", "map_key"):
                    return False  # another value, or the end of the first value: a log has one value a line
                if prefix == "" and value in ("shapes", "imageData"):
                    return False
    except ijson.JSONError:
        read_json(path)  # accepts NaN, and names the place of an error
        return True
    return False


def _find_files(root: Path, notes: Notes) -> dict[str, Path]:
    """The COCO file of each split."""
    by_split: dict[str | None, list[Path]] = {}
    for path in coco_files(root):
        name = path.relative_to(root).as_posix()
        by_split.setdefault(split_of(name), []).append(path)
    found = {}
    for split, paths in by_split.items():
        usual = [path for path in paths if not any(task in path.stem for task in _OTHER_TASKS)] or paths
        usual = [path for path in usual if path.stem.startswith("instances")] or usual
        if len(usual) > 1:
            listed = ", ".join(path.relative_to(root).as_posix() for path in usual[:5])
            raise UserError(
                f"{root} has several COCO files for {split or 'all splits'} ({listed}); write one of them, such as "
                f"--data-root {usual[0]}, or name them train.json, val.json and test.json."
            )
        found[split] = usual[0]
    rest = found.pop(None, None)
    splits = {split: path for split, path in found.items() if split is not None}
    if rest is not None:
        if "train" in splits:
            notes.add("COCO files whose path names no split, which are passed over", rest.relative_to(root).as_posix())
        else:
            splits["train"] = rest
    return splits


def _usual_root(root: Path, file: Path) -> Path | None:
    """The directory below the root from which a COCO file has a usual place. None if there is no such directory."""
    for base in (file.parent, file.parent.parent):
        if base == root or not base.is_relative_to(root):
            continue
        with suppress(UserError):
            if any(base / place.annotations == file for place in find_coco(base).splits.values()):
                return base
    return None


def _describe(
    root: Path, files: Mapping[str, Path], notes: Notes, usual: Mapping[str, Split] | None = None
) -> ObjectData | None:
    """The data set of these COCO files."""
    index = cache(lambda: FileIndex(root, (path for path in visible_files(root) if is_image(path))))
    places: dict[str, Split] = {}
    for split, path in files.items():
        place = (usual or {}).get(split)
        if place is None or not _fits(root, place, index):
            place = _find_place(root, path, index())
        if place is None:
            if split == "train":
                return None
            notes.add("COCO files without their images", path.relative_to(root).as_posix())
            continue
        places[split] = place
    as_they_are = {split: place for split, place in places.items() if _fits(root, place, index)}
    read = _Reader(root, places, index, notes)
    splits: dict[str, Callable[[], Content]] = {split: partial(read.complete, split) for split in places}
    if list(places) == ["train"]:
        parts = read.splits_of_images()
        if parts:
            splits = {split: partial(read.part, split) for split in parts}
            as_they_are = {}
    if len(as_they_are) < len(places):
        as_they_are = {}
    sources = [root / place.annotations for place in places.values()]
    return ObjectData("COCO", root, splits, sources, as_they_are, notes)


def _sample(path: Path) -> list[str]:
    """The names of the first images of a file."""
    ijson = import_ijson()
    try:
        with path.open("rb") as file:
            names = list(islice(ijson.items(file, "images.item.file_name"), SAMPLE_NAMES))
    except ijson.JSONError:
        content = read_json(path)
        names = [image.get("file_name") for image in content.get("images", [])[:SAMPLE_NAMES]]
    return [name for name in names if isinstance(name, str)]


def _fits(root: Path, place: Split, index: Callable[[], FileIndex]) -> bool:
    """Whether the directory contains the first images of the file, except images that are in no other directory."""
    names = _sample(root / place.annotations)
    missing = [name for name in names if not (root / place.images / name).is_file()]
    split = split_of(place.annotations)
    return len(missing) < len(names) and not any(index().find(name, split=split) for name in missing)


def _find_place(root: Path, path: Path, index: FileIndex) -> Split | None:
    """The directory from which most of the file's names lead to images. None if no image exists."""
    annotations = path.relative_to(root).as_posix()
    near = PurePosixPath(annotations).parent.as_posix()
    votes: Counter[str] = Counter()
    for name in _sample(path):
        found = index.find(name, near, split_of(annotations))
        if found is not None:
            plain = name.replace("\\", "/")
            votes[found.removesuffix(plain).rstrip("/") if found.endswith(f"/{plain}") else ""] += 1
    if not votes:
        return None
    return Split(votes.most_common(1)[0][0], annotations)


class _Reader:
    """Reads COCO files, with the names of images relative to the data directory."""

    def __init__(self, root: Path, places: Mapping[str, Split], index: Callable[[], FileIndex], notes: Notes) -> None:
        self.root = root
        self.places = places
        self.index = index
        self.notes = notes
        self._all = cache(lambda: self.complete("train"))

    def complete(self, split: str) -> Content:
        """Reads a file.

        Args:
            split: The name of the split.

        Raises:
            UserError: The file is not in COCO's format.
        """
        place = self.places[split]
        content = read_json(self.root / place.annotations)
        lists = ("images", "categories")
        if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in lists):
            raise UserError(
                f"{self.root / place.annotations} is not in COCO's format; the format needs the lists images, "
                "annotations and categories."
            )
        for image in content["images"]:
            if place.images and isinstance(image, dict) and isinstance(image.get("file_name"), str):
                image["file_name"] = f"{place.images}/{image['file_name']}"
        repaired, notes = repair(content, lambda name: self._locate(name, place))
        for note in notes:
            self.notes.say(f"{place.annotations}: {note}")
        return {name: repaired[name] for name in ("images", "annotations", "categories")}

    def part(self, split: str) -> Content:
        """Reads the images of a split from a file with the images of all splits.

        Args:
            split: The name of the split.
        """
        content = self._all()
        images = [image for image in content["images"] if split_of(image["file_name"]) == split]
        return select_images(content, images)

    def splits_of_images(self) -> set[str]:
        """The splits that the directories of a file's images name. Empty if an image is in no such directory."""
        place = self.places["train"]
        names = [f"{place.images}/{name}" for name in _sample(self.root / place.annotations)]
        if not all(split_of(self._locate(name, place)) for name in names):
            return set()
        splits = {split_of(str(image.get("file_name"))) for image in self._all()["images"]}
        known = {split for split in splits if split is not None}
        return known if len(known) == len(splits) and "train" in known and len(known) > 1 else set()

    def _locate(self, name: str, place: Split) -> str:
        """The name of an existing image, for a name relative to the data directory."""
        expected = name.replace("\\", "/").removeprefix("/")
        if (self.root / expected).is_file():
            return expected
        near = PurePosixPath(place.annotations).parent.as_posix()
        # The check reports missing images.
        return self.index().find(name, near, split_of(place.annotations)) or expected


def count_objects(path: Path) -> tuple[int, Counter[str]]:
    """Counts the images of a COCO file, and the objects by category id, with little memory.

    Args:
        path: The file.

    Returns:
        The number of images, and the number of objects by category id as text.
    """
    ijson = import_ijson()
    try:
        with path.open("rb") as file:
            images = sum(1 for _ in ijson.items(file, "images.item.id"))
        with path.open("rb") as file:
            return images, Counter(map(str, ijson.items(file, "annotations.item.category_id")))
    except ijson.JSONError:  # ijson refuses NaN, which pycocotools accepts
        content = read_json(path)
        return len(content["images"]), Counter(str(each.get("category_id")) for each in content["annotations"])
