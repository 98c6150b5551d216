"""Pictures and videos that a command line names: found, named for what comes out of them, and written."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torchvision.datasets.folder import IMG_EXTENSIONS

from .errors import MissingLibraryError, UserError
from .files import absolute, whole

try:
    import cv2
    from PIL import Image
except ImportError as error:
    raise MissingLibraryError("Videos are read with OpenCV; write pip install opencv-python-headless.") from error

if TYPE_CHECKING:
    from .draw import Pixels

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


def count_frames(medium: Medium) -> int:
    """How many pictures a medium says it has: 1, or a video's frames, of which files may be wrong.

    Args:
        medium: The picture or video.
    """
    return max(1, _count_frames(medium.path)) if medium.is_video else 1


def _count_frames(path: Path) -> int:
    with _opened(path) as video:
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))  # -1 where there is no video


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """A video to read; one that cannot be read has no frames."""
    video = cv2.VideoCapture(str(path))
    try:
        yield video
    finally:
        video.release()


def read_frames(path: Path) -> Iterator[Pixels]:
    """Reads a video.

    Args:
        path: The file.

    Yields:
        Its frames, (H, W, 3), BGR.

    Raises:
        OSError: It has none that can be read; or, after those that it has, that they are far fewer than it says.
    """
    with _opened(path) as video:
        said, rate = video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
        number, seconds = 0, 0.0
        while True:
            there, frame = video.read()
            if not there:
                break
            number += 1
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield np.asarray(frame, np.uint8)
        if not number:
            raise OSError("not a video that can be read")
        # Where frames last unequally long, files tell their time, and their number is a guess from it.
        if max(number, seconds * rate) < 0.9 * said - 1:
            raise OSError(f"ends after {number} of {said:.0f} frames, maybe cut short; these are kept")


def frame_rate(path: Path) -> float:
    """Frames a second of a video, 25 where it does not say.

    Args:
        path: The file.
    """
    with _opened(path) as video:
        rate = float(video.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else 25.0


class VideoError(UserError):
    """A video cannot be written; others may."""


class FrameWriter:
    """Writes pictures as JPEG files and the frames of videos as MP4 files, each whole or not at all.

    Args:
        directory: Where to; files are called as the stems of their media.
        fail: Called for a video that cannot be written whole, and why. The others go on.
    """

    def __init__(self, directory: Path, fail: Callable[[Medium, Exception], None]) -> None:
        self.directory = directory
        self._fail = fail
        self._medium: Medium | None = None  # that came last
        self._add: Callable[[Pixels], None] | None = None  # to its video
        self._files = ExitStack()  # that video's

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
            self._medium = medium
            if medium.is_video:
                path, size = self.directory / f"{medium.stem}.mp4", (pixels.shape[1], pixels.shape[0])
                try:
                    self._add = self._files.enter_context(_video(path, frame_rate(medium.path), size))
                except VideoError as error:
                    self._fail(medium, error)
        if not medium.is_video:
            write_picture(self.directory / f"{medium.stem}.jpg", pixels)
        elif self._add is not None:
            self._add(pixels)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        else:
            self._files.__exit__(kind, error, at)

    def _finish(self) -> None:
        try:
            self._files.close()
        except VideoError as error:
            assert self._medium is not None
            self._fail(self._medium, error)
        self._add = None


@contextmanager
def _video(path: Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[[Pixels], None]]:
    """A new video, whole or not at all; gives what adds a frame of a size, (W, H), RGB."""
    width, height = size
    right, bottom = width % 2, height % 2  # MPEG-4 knows even sizes only
    count = 0
    with whole(path) as part:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        video = cv2.VideoWriter(str(part), codec, rate, (width + right, height + bottom))

        def add(pixels: Pixels) -> None:
            nonlocal count
            count += 1
            even = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
            video.write(cv2.cvtColor(even, cv2.COLOR_RGB2BGR))

        try:
            if not video.isOpened():
                raise VideoError(f"OpenCV cannot write a video of {width} x {height} pixels")
            yield add
        finally:
            video.release()
        # OpenCV does not tell whether it could write.
        there = _count_frames(part)
        if there != count:
            raise VideoError(f"of the drawn video {there} of {count} frames could be written; is there room for it?")


def write_picture(path: Path, pixels: npt.NDArray[np.integer]) -> None:
    """Writes a picture whole or not at all.

    Args:
        path: The file, ``.jpg`` or ``.png``; its directory is made. A picture of more than 65,500 pixels a side, which
            JPEG cannot hold, becomes smaller.
        pixels: (H, W, 3) in RGB, or (H, W) of 8 or 16 bits.

    Raises:
        UserError: The file cannot be written.
    """
    options = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": 92, "subsampling": 0}
    picture = Image.fromarray(pixels)
    if options["format"] == "JPEG":
        picture.thumbnail((65_500, 65_500))
    with whole(path) as part:
        picture.save(part, **options)
