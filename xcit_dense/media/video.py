"""Videos, read and written frame by frame with PyAV (FFmpeg).

Videos are written as MP4 files with H.264 and yuv420p, because browsers play this combination.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.media.images import write_image
from xcit_dense.media.inputs import Medium
from xcit_dense.structures import Pixels
from xcit_dense.utils.files import atomic_write

try:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace
    from av.video.stream import VideoStream
except ImportError as error:
    raise MissingLibraryError('Videos are read and written with PyAV; write pip install "av>=17".') from error

_DEFAULT_RATE = Fraction(25)
_CRF = "20"  # x264's quality: 0 is lossless, 51 is worst
# FFmpeg's codes. Browsers convert to RGB by the matrix that the file declares. OpenCV ignores the declaration and uses
# the matrix of BT.601, so BT.601 gives the right colours in both.
_BT601_MATRIX = 6  # AVCOL_SPC_SMPTE170M
_BT709_PRIMARIES = _BT709_TRANSFER = 1  # AVCOL_PRI_BT709 and AVCOL_TRC_BT709, close to sRGB
_LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG: luma from 16 to 235
_FAULTS = (OSError, av.FFmpegError)


def count_frames(medium: Medium) -> int:
    """Counts the images of a medium without decoding them.

    Args:
        medium: An image or a video.

    Returns:
        1 for an image and for an unreadable video. Otherwise the number of frames that the video's header declares. Of
        formats whose header declares none, the number is estimated from duration and frame rate.
    """
    if not medium.is_video:
        return 1
    try:
        with _open(medium.path) as (container, stream):
            return max(1, round(_declared_frames(container, stream)))
    except _FAULTS:
        return 1


def frame_rate(path: Path) -> float:
    """Reads the frame rate of a video.

    Args:
        path: The video.

    Returns:
        Frames per second, averaged over the video if its frames have different durations. 25 if the video does not
        declare a rate, or is not readable.
    """
    try:
        with _open(path) as (container, stream):
            declared = _rate(stream)
            # MP4 and AVI files count their frames, so their average rate is exact. Matroska and WebM files do not.
            if stream.frames:
                return float(declared)
            measured = _measure_rate(container, stream)
            if measured is None or abs(measured - declared) < 0.01 * declared:
                return float(declared)
            return measured
    except _FAULTS:
        return float(_DEFAULT_RATE)


def read_frames(path: Path) -> Iterator[Pixels]:
    """Reads the frames of a video, upright: the rotation that phones store in the file is applied.

    Args:
        path: The video.

    Yields:
        The frames in the order of display, each (H, W, 3) in BGR, uint8, all of the first frame's size.

    Raises:
        OSError: The file does not contain a readable frame. Or the file contains far fewer frames than the file
            declares; this error comes after the last frame.

    Example:
        >>> with FrameWriter(Path("clips"), fail=lambda medium, error: print(error)) as writer:
        ...     for _ in range(3):
        ...         writer.write(Medium(Path("clip.mov"), "clip.mov", "clip"), np.zeros((48, 64, 3), np.uint8))
        >>> [frame.shape for frame in read_frames(Path("clips/clip.mp4"))]
        [(48, 64, 3), (48, 64, 3), (48, 64, 3)]
    """
    try:
        with _open(path) as (container, stream):
            declared, rate = _declared_frames(container, stream), float(_rate(stream))
            count, seconds = 0, 0.0
            size: tuple[int, int] | None = None
            for frame in _decode(container, stream):
                size = size or (frame.width, frame.height)
                count += 1
                if frame.time is not None:
                    seconds = max(seconds, frame.time - _start(stream))
                yield _to_pixels(frame, size)
    except av.FFmpegError as error:
        raise OSError("not a video that can be read") from error
    if not count:
        raise OSError("not a video that can be read")
    # If frames have different durations, the declared number is an estimate. Then the time of the last frame decides.
    if max(count, seconds * rate) < 0.9 * declared - 1:
        raise OSError(f"ends after {count} of {declared:.0f} frames, maybe cut short; these are kept")


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video and its first video stream."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise OSError("not a video that can be read")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _rate(stream: VideoStream) -> Fraction:
    rate = stream.average_rate or stream.guessed_rate
    return rate if rate and 0 < rate < 1000 else _DEFAULT_RATE


def _measure_rate(container: InputContainer, stream: VideoStream) -> float | None:
    """The average rate by the times of the frames, without decoding. None for fewer than two frames."""
    times = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
    if stream.time_base is None or len(times) < 2 or max(times) == min(times):
        return None
    rate = (len(times) - 1) / float((max(times) - min(times)) * stream.time_base)
    return rate if rate < 1000 else None


def _declared_frames(container: InputContainer, stream: VideoStream) -> float:
    """The number of frames by the header, or an estimate from the duration, or 0."""
    if stream.frames:
        return stream.frames
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base * _rate(stream))
    if container.duration is not None:
        return float(Fraction(container.duration, av.time_base) * _rate(stream))
    return 0


def _start(stream: VideoStream) -> float:
    """The time of the first frame in seconds."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decodes the frames of a stream. Skips damaged packets; a file that ends too early just ends."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            break
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue
    # The decoder still holds frames when the file ends with an error.
    try:
        yield from stream.codec_context.decode(None)
    except av.FFmpegError:
        return


def _to_pixels(frame: VideoFrame, size: tuple[int, int]) -> Pixels:
    """Converts a frame to upright BGR."""
    width, height = size
    pixels = frame.to_ndarray(format="bgr24", width=width, height=height)
    quarter_turns = round(frame.rotation / 90) % 4  # counterclockwise, like np.rot90
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))


class VideoError(UserError):
    """A video cannot be written. Other videos may be writable."""


class FrameWriter:
    """Writes images as JPEG files, and the frames of videos as MP4 files, each file atomically.

    MP4 files contain H.264 with yuv420p, which browsers play, at the source video's frame rate. A source with frames of
    different durations gets its average rate, so that the duration stays. H.264 with yuv420p needs even sizes: a video
    with an odd width or height gets one more column or row, a copy of the last one.

    Args:
        directory: The output directory. Files are named by the stems of their media.
        fail: Is called with a medium and an error if the medium's video cannot be written. Other media are still
            written.

    Example:
        >>> medium = Medium(Path("photos/a.png"), "a.png", "a")
        >>> with FrameWriter(Path("drawn"), fail=lambda medium, error: print(error)) as writer:
        ...     writer.write(medium, np.zeros((20, 30, 3), np.uint8))
        >>> sorted(path.name for path in Path("drawn").iterdir())
        ['a.jpg']
    """

    def __init__(self, directory: Path, fail: Callable[[Medium, Exception], None]) -> None:
        self.directory = directory
        self._fail = fail
        self._medium: Medium | None = None  # the medium of the last call
        self._add: Callable[[Pixels], None] | None = None  # adds a frame to the medium's video
        self._files = ExitStack()  # the medium's video

    def write(self, medium: Medium, pixels: Pixels) -> None:
        """Writes an image, or the next frame of a video. The frames of a video must follow each other directly.

        Args:
            medium: The image's or frame's source.
            pixels: (H, W, 3) in RGB, uint8. All frames of a video have the same size.

        Raises:
            UserError: The file cannot be written.
        """
        if medium != self._medium:
            self._finish()
            self._medium = medium
            if medium.is_video:
                self._start_video(medium, pixels)
        if not medium.is_video:
            write_image(self.directory / f"{medium.stem}.jpg", pixels)
        elif self._add is not None:
            try:
                self._add(pixels)
            except VideoError as error:
                self._abandon(error)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        else:
            self._files.__exit__(kind, error, at)

    def _start_video(self, medium: Medium, pixels: Pixels) -> None:
        path, size = self.directory / f"{medium.stem}.mp4", (pixels.shape[1], pixels.shape[0])
        try:
            self._add = self._files.enter_context(_video(path, frame_rate(medium.path), size))
        except VideoError as error:
            self._fail(medium, error)

    def _abandon(self, error: VideoError) -> None:
        """Reports the current video as failed and removes its unfinished file."""
        assert self._medium is not None
        self._add = None
        with suppress(VideoError):
            self._files.__exit__(VideoError, error, None)
        self._fail(self._medium, error)

    def _finish(self) -> None:
        """Completes the current video."""
        self._add = None
        try:
            self._files.close()
        except VideoError as error:
            assert self._medium is not None
            self._fail(self._medium, error)


@contextmanager
def _video(path: Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[[Pixels], None]]:
    """Writes a video atomically. Yields the function that adds a frame: (H, W, 3) in RGB, of the given (W, H)."""
    width, height = size
    right, bottom = width % 2, height % 2
    count = 0
    with atomic_write(path) as part, _as_video_errors(size):
        # faststart puts the index first, so that browsers play the file while it loads.
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            exact = Fraction(rate).limit_denominator(1001)  # 29.97 frames per second are 30000 / 1001
            stream = container.add_stream("libx264", rate=exact, options={"crf": _CRF})
            stream.width, stream.height, stream.pix_fmt = width + right, height + bottom, "yuv420p"
            codec = stream.codec_context
            codec.colorspace = _BT601_MATRIX
            codec.color_primaries, codec.color_trc = _BT709_PRIMARIES, _BT709_TRANSFER
            codec.color_range = _LIMITED_RANGE
            codec.open()

            def add(pixels: Pixels) -> None:
                nonlocal count
                if pixels.shape != (height, width, 3):
                    raise VideoError(
                        f"frame {count} of the drawn video has {pixels.shape[1]} x {pixels.shape[0]} pixels, but the "
                        f"first frame has {width} x {height}"
                    )
                even = np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge")
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24").reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
                )
                with _as_video_errors(size):
                    container.mux(stream.encode(frame))
                count += 1

            yield add
            container.mux(stream.encode(None))
        # FFmpeg does not report every failed write.
        written = _count_packets(part)
        if written != count:
            raise VideoError(f"of the drawn video, {written} of {count} frames could be written; is the disk full?")


@contextmanager
def _as_video_errors(size: tuple[int, int]) -> Iterator[None]:
    """Turns the errors of PyAV into one sentence."""
    try:
        yield
    except _FAULTS as error:
        why = error.strerror or error
        raise VideoError(f"the drawn video of {size[0]} x {size[1]} pixels cannot be written: {why}") from error


def _count_packets(path: Path) -> int:
    with _open(path) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size)
