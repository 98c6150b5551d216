"""Pictures and videos that a command line names: found, named for what comes out of them, and written."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from torchvision.datasets.folder import IMG_EXTENSIONS

from .errors import MissingLibraryError, UserError

try:
    import cv2
    from PIL import Image
except ImportError as error:
    raise MissingLibraryError("Videos are read with OpenCV; write pip install opencv-python-headless.") from error

VIDEO_EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
Pixels = npt.NDArray[np.uint8]


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
        inputs: Files; directories, of which everything below is taken; patterns, as ``'photos/**/*.jpg'``.

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
            found.setdefault(_absolute(file), _absolute(directory))
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


def _absolute(path: Path) -> Path:
    # A link keeps its own name and place.
    return Path(os.path.abspath(path))  # noqa: PTH100


def _walk(directory: Path) -> Iterator[Path]:
    for parent, directories, files in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        yield from filter(_is_medium, (Path(parent, name) for name in sorted(files)))


def _is_medium(path: Path) -> bool:
    return path.suffix.lower() in (*IMG_EXTENSIONS, *VIDEO_EXTENSIONS) and not path.name.startswith(".")


def count_frames(medium: Medium) -> int:
    """How many pictures a medium says it has: 1, or a video's frames, of which files may be wrong.

    Args:
        medium: The picture or video.
    """
    if not medium.is_video:
        return 1
    video = cv2.VideoCapture(str(medium.path))
    try:
        return max(1, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        video.release()


def read_frames(path: Path) -> Iterator[Pixels]:
    """Reads a video.

    Args:
        path: The file.

    Yields:
        Its frames, (H, W, 3), BGR.

    Raises:
        OSError: It has none that can be read.
    """
    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            number += 1
            yield np.asarray(frame, np.uint8)
        if not number:
            raise OSError("not a video that can be read")
    finally:
        video.release()


def frame_rate(path: Path) -> float:
    """Frames a second of a video, 25 where it does not say.

    Args:
        path: The file.
    """
    video = cv2.VideoCapture(str(path))
    try:
        rate = float(video.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate < 1000 else 25.0
    finally:
        video.release()


class FrameWriter:
    """Writes pictures as JPEG files and the frames of videos as MP4 files, each whole or not at all.

    Args:
        directory: Where to; files are called as the stems of their media.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._medium: Medium | None = None  # the video that is open
        self._video: cv2.VideoWriter | None = None

    def write(self, medium: Medium, pixels: Pixels) -> None:
        """Writes a picture, or the next frame of a video, whose frames come together.

        Args:
            medium: What it belongs to.
            pixels: (H, W, 3), RGB; the frames of a video are of one size.

        Raises:
            UserError: The file cannot be written.
        """
        if medium != self._medium:
            self._finish()
        if not medium.is_video:
            write_picture(self.directory / f"{medium.stem}.jpg", pixels)
            return
        height, width = pixels.shape[:2]
        if self._video is None:
            self._medium = medium
            part, path = self._files(medium)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (width + width % 2, height + height % 2)  # MPEG-4 knows even sizes only
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(part), codec, frame_rate(medium.path), size)
            if not self._video.isOpened():
                raise UserError(f"This OpenCV cannot write {path}; write --no-draw, or give pictures.")
        even = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._video.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._finish(whole=kind is None)

    def _finish(self, whole: bool = True) -> None:
        if self._video is not None and self._medium is not None:
            self._video.release()
            part, path = self._files(self._medium)
            if whole:
                part.replace(path)
            else:
                part.unlink(missing_ok=True)
        self._medium = self._video = None

    def _files(self, medium: Medium) -> tuple[Path, Path]:
        # The ending chooses the format, so it comes last.
        return self.directory / f"{medium.stem}.part.mp4", self.directory / f"{medium.stem}.mp4"


def write_picture(path: Path, pixels: npt.NDArray[np.integer]) -> None:
    """Writes a picture whole or not at all.

    Args:
        path: The file, ``.jpg`` or ``.png``; its directory is made.
        pixels: (H, W, 3) in RGB, or (H, W) of 8 or 16 bits.

    Raises:
        UserError: The file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    options = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 92, "subsampling": 0}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(part, **options)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):  # the directory may be none
            part.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror or error}; write another --out.") from error
