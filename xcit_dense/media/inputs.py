"""Images and videos that a command line names: found, and named for their outputs."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xcit_dense.errors import UserError
from xcit_dense.utils.files import absolute, visible_files

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


@dataclass(frozen=True)
class Medium:
    """An image or a video.

    Attributes:
        path: The file.
        name: The path below the directory that contains all inputs, with ``/`` as separator.
        stem: The name of the medium's outputs: ``name`` without the suffix. The suffix stays if another medium has the
            same stem.
    """

    path: Path
    name: str
    stem: str

    @property
    def is_video(self) -> bool:
        """Whether the medium is a video. The suffix decides."""
        return self.path.suffix.lower() in VIDEO_EXTENSIONS


def find_media(inputs: Sequence[str], suffixes: Sequence[str] = ()) -> list[Medium]:
    """Finds the images and videos that a command line names.

    Args:
        inputs: Files; directories, which are searched recursively, links included; and patterns, for example
            ``'photos/**/*.jpg'``.
        suffixes: Further suffixes of images. An input with one of these suffixes may also be a directory that is an
            image.

    Returns:
        Each file once, in the order of the inputs. Files of one directory or pattern are sorted by path.

    Raises:
        UserError: An input does not exist, or contains neither images nor videos.

    Example:
        >>> import numpy as np
        >>> from xcit_dense.media.images import write_image
        >>> for name in ("a.jpg", "trip/b.png"):
        ...     write_image(Path("photos", name), np.zeros((8, 8, 3), np.uint8))
        >>> [medium.name for medium in find_media(["photos"])]
        ['a.jpg', 'trip/b.png']
    """
    directories: dict[Path, Path] = {}  # of each file, the directory that its input names
    known = tuple(dict.fromkeys((*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS, *suffixes)))
    for text in inputs:
        found = _find(text, known, suffixes)
        if not found:
            raise UserError(f"{text} contains no images or videos; their suffixes are {' '.join(known)}.")
        for file, directory in found:
            directories.setdefault(absolute(file), absolute(directory))
    root = Path(os.path.commonpath(list(directories.values())))
    stems: set[str] = set()
    media = []
    for file in directories:
        relative = file.relative_to(root)
        stem = _unique_stem(relative, stems)
        stems.add(stem)
        media.append(Medium(file, relative.as_posix(), stem))
    return media


def _find(text: str, known: Sequence[str], directories: Sequence[str]) -> list[tuple[Path, Path]]:
    """The files that one input names, each with the directory that the names of its outputs start from."""
    path = Path(text)
    if path.is_file() or (path.is_dir() and path.suffix.lower() in directories):
        return [(path, path.parent)]
    if path.is_dir():
        return [(file, path) for file in visible_files(path) if _is_medium(file, known)]
    if not glob.has_magic(text):
        raise UserError(f"No image, video or directory at {text}; check the path.")
    found: list[tuple[Path, Path]] = []
    for name in sorted(glob.glob(text, recursive=True)):  # noqa: PTH207 (Path.glob refuses absolute patterns)
        match = Path(name)
        if match.is_dir():
            found.extend((file, file.parent) for file in visible_files(match) if _is_medium(file, known))
        elif _is_medium(match, known):
            found.append((match, match.parent))
    return found


def _unique_stem(relative: Path, taken: set[str]) -> str:
    stem = relative.with_suffix("").as_posix()
    if stem in taken:
        stem = relative.as_posix()
    while stem in taken:
        stem += "_"
    return stem


def _is_medium(path: Path, known: Sequence[str]) -> bool:
    return path.suffix.lower() in known and not path.name.startswith(".")
