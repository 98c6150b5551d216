"""Finds the images that an annotation file names, also if they are in another directory."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

from xcit_dense.datasets.formats.files import count_common_end


class ImageFinder:
    r"""Finds images by the names in an annotation file.

    An image is where its name says, also if the name has backslashes, or else below one of the other directories. The
    names of both files must agree, and only one file may have the most directories in common with the name.

    Args:
        images: The directory of the images.
        others: The directories to search for missing images, in this order. They are read at the first missing image.
        excluded: Directories that are not searched, such as those of other splits: an image with the same name may be
            there.

    Example:
        >>> Path("photos/day 1").mkdir(parents=True)
        >>> Path("photos/day 1/a.jpg").touch()
        >>> find = ImageFinder(Path("photos"), [Path("photos")])
        >>> find("day 1\\a.jpg"), find("C:\\Users\\me\\a.jpg"), find("b.jpg")
        ('day 1/a.jpg', 'day 1/a.jpg', None)
    """

    def __init__(self, images: Path, others: Sequence[Path] = (), excluded: Collection[Path] = ()) -> None:
        self._images = images
        self._others = others
        self._excluded = {os.path.realpath(directory) for directory in excluded}

    def __call__(self, name: str) -> str | None:
        """Finds an image.

        Args:
            name: The name in the annotation file.

        Returns:
            The path relative to the directory of the images. The absolute path if the image is outside this directory.
            None if there is no such image, or more than one.
        """
        plain = name.replace("\\", "/")
        for candidate in (name, plain):
            if os.path.isfile(self._images / candidate):  # noqa: PTH113  Path.is_file() fails at a name that is too long
                return candidate
        parts = plain.split("/")
        for paths in self._paths:
            found = _find_closest(paths.get(parts[-1], ()), parts)
            if found is not None:
                is_below = found.is_relative_to(self._images)
                return found.relative_to(self._images).as_posix() if is_below else str(found.absolute())
        return None

    @cached_property
    def _paths(self) -> list[dict[str, list[Path]]]:
        return [_list_files(directory, self._excluded) for directory in self._others]


def _list_files(directory: Path, excluded: Collection[str]) -> dict[str, list[Path]]:
    """The files below a directory by their names. Hidden files and directories are left out, links are followed."""
    files: dict[str, list[Path]] = {}
    visited = set(excluded)
    for parent, directories, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # excluded, or a link to a directory above
            directories.clear()
            continue
        visited.add(real)
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                files.setdefault(name, []).append(Path(parent, name))
    return files


def _find_closest(paths: list[Path] | tuple[()], parts: list[str]) -> Path | None:
    """The path with the most last parts in common. None if there is no path, or more than one."""
    common = {path: count_common_end(path.parts, parts) for path in paths}
    closest = [path for path in paths if common[path] == max(common.values())]
    return closest[0] if len(closest) == 1 else None
