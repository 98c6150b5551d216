"""The files of a data set, matched with the names that annotations contain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from xcit_dense.datasets.formats.splits import IMAGE_SUFFIXES, SPLITS


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image.

    Args:
        path: The file.
    """
    return path.suffix.lower() in IMAGE_SUFFIXES


def split_of(relative: str) -> str | None:
    """Returns the split that a path names by a usual name.

    Args:
        relative: A path relative to the data directory.

    Returns:
        ``'train'``, ``'val'`` or ``'test'``. None if no part of the path is the name of a split. A later part wins.

    Example:
        >>> split_of("images/valid/a.jpg"), split_of("annotations/instances_Train2017.json"), split_of("training.jpg")
        ('val', 'train', None)
    """
    path = PurePosixPath(relative)
    parts = [*path.parts[:-1], *([path.stem] if path.suffix.lower() == ".json" else [])]
    for part in reversed(parts):
        words = "".join(letter.lower() if letter.isalpha() else " " for letter in part).split()
        for split, names in SPLITS.items():
            if any(name in words for name in names):
                return split
    return None


class FileIndex:
    """Finds the file that an annotation means, wherever the file is below the data directory.

    Args:
        root: The data directory.
        files: The files to search.
    """

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        self.root = root
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for file in files:
            relative = file.relative_to(root).as_posix()
            self._by_name.setdefault(file.name, []).append(relative)
            self._by_stem.setdefault(file.stem, []).append(relative)

    def find(self, name: str, near: str = "", split: str | None = None) -> str | None:
        """Finds a file by a name with or without directories and suffix.

        Args:
            name: The name in the annotation. Backslashes separate directories, too.
            near: The directory of the annotation file, relative to the data directory.
            split: The split of the annotation. Files in a directory of another split do not count. None takes all.

        Returns:
            The path relative to the data directory. None if there is no such file, or if several files fit equally.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        candidates = self._by_name.get(wanted.name) or self._by_stem.get(wanted.name) or self._by_stem.get(wanted.stem)
        if split is not None:
            candidates = [path for path in candidates or () if split_of(path) in (None, split)]
        if not candidates:
            return None
        if len(candidates) == 1:
            return candidates[0]
        # The more of the name's end a path has, and then the more of the annotation file's directories, the better.
        directories = wanted.parts[:-1]
        scores = [
            (count_common_end(PurePosixPath(path).parts[:-1], directories), _shared_words(path, near), path)
            for path in candidates
        ]
        best = max(scores)
        if sum(score[:2] == best[:2] for score in scores) > 1:
            return None
        return best[2]


def count_common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """Counts the last parts that two paths have in common.

    Args:
        first: The parts of a path.
        second: The parts of another path.

    Example:
        >>> count_common_end(["data", "day 1", "a.jpg"], ["day 1", "a.jpg"])
        2
    """
    count = 0
    for one, other in zip(reversed(first), reversed(second)):
        if one != other:
            break
        count += 1
    return count


def _shared_words(path: str, near: str) -> int:
    return len(set(PurePosixPath(path).parts[:-1]) & set(PurePosixPath(near).parts))
