"""Pictures and videos that a command line names: found, named for what comes out of them, and written."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torchvision.datasets.folder import IMG_EXTENSIONS

from xcit_dense.errors import UserError
from xcit_dense.utils.files import absolute

if TYPE_CHECKING:
    pass

VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True)
class Medium:
    """A picture or a video.

    Attributes:
        path: Where it is.
        name: Its path below the directory that holds all inputs, with ``/``.
        stem: The same for what comes out of it: without the ending, unless another input's would be the same.
    """

    path: Path
    name: str
    stem: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its ending."""
        return self.path.suffix.lower() in VIDEO_EXTENSIONS


def find_media(inputs: Sequence[str]) -> list[Medium]:
    """Finds the pictures and videos that a command line means.

    Args:
        inputs: Files; directories, of which everything below is taken, through links too; patterns, as
            ``'photos/**/*.jpg'``.

    Returns:
        Each once, in the order of the inputs; those of a directory or a pattern in the order of their paths.

    Raises:
        UserError: An input that is not there, or that holds none.
    """
    found: dict[Path, Path] = {}  # and the directory that the input names
    for text in inputs:
        path = Path(text)
        if path.is_file():
            matches: Iterable[tuple[Path, Path]] = [(path, path.parent)]
        elif path.is_dir():
            matches = ((file, path) for file in _walk(path))
        elif glob.has_magic(text):
            paths = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207 (Path.glob wants relative ones)
            files = (file for each in paths for file in (_walk(each) if each.is_dir() else filter(_is_medium, [each])))
            matches = ((file, file.parent) for file in files)
        else:
            raise UserError(f"No picture, video or directory at {text}; check the path.")
        empty = True
        for file, directory in matches:
            empty = False
            found.setdefault(absolute(file), absolute(directory))
        if empty:
            endings = " ".join((*IMG_EXTENSIONS, *VIDEO_EXTENSIONS))
            raise UserError(f"{text} has no pictures or videos; they end in one of {endings}.")
    root = Path(os.path.commonpath(list(found.values())))
    stems: set[str] = set()
    media = []
    for file in found:
        relative = file.relative_to(root)
        stem = relative.with_suffix("").as_posix()
        if stem in stems:
            stem = relative.as_posix()
        while stem in stems:
            stem += "_"
        stems.add(stem)
        media.append(Medium(file, relative.as_posix(), stem))
    return media


def _walk(directory: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for parent, directories, files in os.walk(directory, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:  # links may lead in circles
            directories.clear()
            continue
        seen.add(place)
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        yield from filter(_is_medium, (Path(parent, name) for name in sorted(files)))


def _is_medium(path: Path) -> bool:
    return path.suffix.lower() in (*IMG_EXTENSIONS, *VIDEO_EXTENSIONS) and not path.name.startswith(".")
