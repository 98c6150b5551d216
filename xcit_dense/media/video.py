"""Videos, frame by frame: read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.media.images import write_image
from xcit_dense.media.inputs import Medium
from xcit_dense.utils.files import atomic_write

try:
    import cv2
except ImportError as error:
    raise MissingLibraryError("Videos are read with OpenCV; write pip install opencv-python-headless.") from error

if TYPE_CHECKING:
    from xcit_dense.structures import Pixels


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
            write_image(self.directory / f"{medium.stem}.jpg", pixels)
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
    with atomic_write(path) as part:
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
