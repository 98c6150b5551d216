"""Videos are read upright and complete, and written so that browsers play them. OpenCV is the independent reader."""

import importlib
import resource
import struct
import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av", reason="PyAV is not installed")
cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")

from xcit_dense.errors import MissingLibraryError  # noqa: E402
from xcit_dense.media import video as video_module  # noqa: E402
from xcit_dense.media.inputs import Medium  # noqa: E402
from xcit_dense.media.video import FrameWriter, count_frames, frame_rate, read_frames  # noqa: E402


@pytest.fixture
def clip(tmp_path):
    """Writes a video with OpenCV. Each frame has a grey value of its own."""

    def make(path=tmp_path / "clip.mp4", frames=7, size=(64, 48), rate=12.5):
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        assert video.isOpened(), "this OpenCV cannot write videos"
        for number in range(frames):
            video.write(np.full((size[1], size[0], 3), 30 * number % 256, np.uint8))
        video.release()
        return path

    return make


def medium_of(path, name="clip.mp4"):
    return Medium(path, name, name.rpartition(".")[0])


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def read_with_opencv(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        success, frame = video.read()
        if not success:
            video.release()
            return frames
        frames.append(frame)


# Reading


def test_a_video_is_read_frame_by_frame(clip):
    frames = list(read_frames(clip()))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 7
    assert [round(frame.mean() / 30) for frame in frames] == list(range(7))
    assert count_frames(medium_of(clip())) == 7
    assert frame_rate(clip()) == pytest.approx(12.5)


def test_frames_equal_those_of_opencv(clip, tmp_path):
    path = tmp_path / "colours.mp4"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    small = noise(4, 3)
    for number in range(4):
        video.write(cv2.resize(np.roll(small, number, axis=1), (64, 48)))
    video.release()
    for frame, expected in zip(read_frames(path), read_with_opencv(path), strict=True):
        assert abs(frame.astype(int) - expected).mean() < 3


def rotate(path, quarter_turns):
    """Stores a clockwise rotation in an MP4 file, like phones do: in the matrix of the track header."""
    content = bytearray(path.read_bytes())
    one = 1 << 16
    matrix = {1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[quarter_turns]
    start = content.index(b"tkhd") + 44
    struct.pack_into(">9i", content, start, matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_the_rotation_that_phones_store_is_applied(tmp_path, quarter_turns):
    path = tmp_path / "phone.mp4"
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32] = 255
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(2):
        video.write(stored)
    video.release()
    rotate(path, quarter_turns)
    frames = list(read_frames(path))
    assert len(frames) == 2
    upright = np.rot90(stored, -quarter_turns)
    for frame, expected in zip(frames, read_with_opencv(path), strict=True):
        assert frame.shape == upright.shape
        assert abs(frame.astype(int) - upright).mean() < 6
        assert abs(frame.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_an_unreadable_video_is_an_error(clip, content):
    path = clip()
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    assert count_frames(medium_of(path)) == 1
    assert frame_rate(path) == 25
    with pytest.raises(OSError, match="not a video"):
        next(read_frames(path))


def test_a_missing_video_is_an_error(tmp_path):
    with pytest.raises(OSError, match="not a video"):
        next(read_frames(tmp_path / "gone.mp4"))


def test_a_file_with_sound_only_is_an_error(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert count_frames(medium_of(path)) == 1
    with pytest.raises(OSError, match="not a video"):
        next(read_frames(path))


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_truncated_video_gives_the_frames_that_are_there_and_then_an_error(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(40):
        video.write(noise(64, 48))
    video.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    frames = read_frames(path)
    first = [next(frames) for _ in range(15)]
    assert [frame.shape for frame in first] == [(48, 64, 3)] * 15
    with pytest.raises(OSError, match=r"after \d+ of 40 frames"):
        list(frames)


def test_a_truncated_drawing_gives_the_frames_that_are_there_and_then_an_error(clip, tmp_path):
    source = medium_of(clip(tmp_path / "in.mp4"))
    random = np.random.default_rng(0)
    with FrameWriter(tmp_path, refuse) as writer:
        for _ in range(40):
            writer.write(source, random.integers(0, 256, (48, 64, 3), np.uint8))
    path = tmp_path / "clip.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = read_frames(path)
    assert next(frames).shape == (48, 64, 3)
    with pytest.raises(OSError, match=r"after \d+ of 40 frames"):
        list(frames)


def test_a_damaged_frame_is_skipped(tmp_path):
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(40):
        video.write(noise(64, 48))
    video.release()
    chunks = path.read_bytes().split(b"00dc")
    chunks[10] = chunks[10][:4] + bytes(len(chunks[10]) - 4)
    path.write_bytes(b"00dc".join(chunks))
    assert 38 <= len(list(read_frames(path))) <= 40


@pytest.mark.parametrize("declared", [22, 18])
def test_a_header_with_a_slightly_wrong_number_of_frames_is_accepted(clip, tmp_path, declared):
    path = clip(tmp_path / "clip.avi", frames=20)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, declared)
    path.write_bytes(content)
    assert count_frames(medium_of(path)) == declared
    assert len(list(read_frames(path))) == 20


@pytest.fixture
def uneven(tmp_path):
    """A video whose frames have different durations: ten frames in 0.1 seconds each, then ten in 0.5 seconds each."""
    path = tmp_path / "uneven.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            time += 100 if number < 10 else 500
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_video_with_frames_of_different_durations_is_complete(uneven):
    assert len(list(read_frames(uneven))) == 20


# Writing


def refuse(medium, error):
    """The ``fail`` of a writer that should not fail."""
    pytest.fail(f"{medium.name}: {error}")


def test_images_become_jpeg_files_of_good_quality(tmp_path):
    smooth = np.array(Image.fromarray(noise(8, 6)).resize((80, 60), Image.Resampling.BICUBIC))
    with FrameWriter(tmp_path / "out", refuse) as writer:
        writer.write(Medium(tmp_path / "a/x.png", "a/x.png", "a/x"), smooth)
    with Image.open(tmp_path / "out/a/x.jpg") as image:
        assert image.format == "JPEG"
        assert abs(np.asarray(image, int) - smooth).mean() < 4


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (640, 360)])
def test_a_written_video_has_the_frames_and_the_rate_of_its_source(clip, tmp_path, size):
    medium = Medium(clip(), "deep/clip.mov", "deep/clip")
    with FrameWriter(tmp_path / "out", refuse) as writer:
        for number in range(5):
            writer.write(medium, np.full((size[1], size[0], 3), (0, 40 * number, 0), np.uint8))
        path = tmp_path / "out/deep/clip.mp4"
        assert not path.exists(), "not yet complete"
    assert [path.name for path in path.parent.iterdir()] == ["clip.mp4"]
    assert frame_rate(path) == pytest.approx(12.5)
    assert count_frames(medium_of(path)) == 5
    even = (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    for frames in (list(read_frames(path)), read_with_opencv(path)):
        assert [frame.shape for frame in frames] == [even] * 5
        assert [round(frame[..., 1].mean() / 40) for frame in frames] == list(range(5)), "not green, or not in order"


def test_a_written_video_plays_in_browsers(clip, tmp_path):
    """Browsers play H.264 with 4:2:0 chroma, and need the index before the frames to play while the file loads."""
    with FrameWriter(tmp_path, refuse) as writer:
        for _ in range(5):
            writer.write(medium_of(clip(tmp_path / "in.mp4")), noise(63, 47))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_written_video_keeps_colours_and_repeats_the_last_column_and_row_of_odd_sizes(clip, tmp_path):
    smooth = np.array(Image.fromarray(noise(8, 6)).resize((161, 121), Image.Resampling.BICUBIC))
    with FrameWriter(tmp_path, refuse) as writer:
        for _ in range(3):
            writer.write(medium_of(clip(tmp_path / "in.mp4")), smooth)
    padded = np.pad(smooth, ((0, 1), (0, 1), (0, 0)), mode="edge")
    for frame in read_frames(tmp_path / "clip.mp4"):
        assert frame.shape == (122, 162, 3)
        assert abs(frame[..., ::-1].astype(int) - padded).mean() < 4


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(120)])
def test_the_frame_rate_is_kept_exactly(tmp_path, rate):
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(64, 48), format="rgb24")))
        container.mux(stream.encode(None))
    with FrameWriter(tmp_path, refuse) as writer:
        for frame in read_frames(source):
            writer.write(medium_of(source), frame)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == rate


def test_a_video_with_frames_of_different_durations_keeps_its_duration(uneven, tmp_path):
    with FrameWriter(tmp_path, refuse) as writer:
        for frame in read_frames(uneven):
            writer.write(medium_of(uneven), frame)
    with av.open(str(uneven)) as source, av.open(str(tmp_path / "clip.mp4")) as drawn:
        assert drawn.duration == pytest.approx(source.duration, rel=0.1)
        assert drawn.streams.video[0].frames == 20


def test_one_writer_writes_several_videos(clip, tmp_path):
    with FrameWriter(tmp_path / "out", refuse) as writer:
        for name in ("one", "two"):
            for _ in range(2):
                writer.write(Medium(clip(tmp_path / f"{name}.mp4"), f"{name}.mp4", name), noise(32, 32))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.mp4", "two.mp4"]


def test_an_interrupted_video_leaves_no_file(clip, tmp_path):
    def interrupted():
        with FrameWriter(tmp_path / "out", refuse) as writer:
            writer.write(Medium(clip(), "clip.mp4", "clip"), noise(32, 32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "out").iterdir()) == []


def write_too_wide(writer, medium, tmp_path):
    for _ in range(2):
        writer.write(medium, noise(17_000, 16))


def write_two_sizes(writer, medium, tmp_path):
    writer.write(medium, noise(32, 32))
    writer.write(medium, noise(32, 48))
    writer.write(medium, noise(32, 32))


def write_to_a_full_disk(writer, medium, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for _ in range(4):
            writer.write(medium, noise(64, 64))
        writer.write(Medium(tmp_path / "a.png", "a.png", "a"), noise(2, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_too_wide, "17000 x 16 pixels cannot be written"),
        (write_two_sizes, "frame 1 of the drawn video has 32 x 48 pixels, but the first frame has 32 x 32"),
        (write_to_a_full_disk, "drawn video"),
    ],
)
def test_a_video_that_cannot_be_written_is_reported_and_the_next_is_written(clip, tmp_path, write, words):
    reported = []
    one, two = (Medium(clip(tmp_path / f"{name}.mp4"), f"{name}.mp4", name) for name in ("one", "two"))
    with FrameWriter(tmp_path / "out", lambda medium, error: reported.append((medium, error))) as writer:
        write(writer, one, tmp_path)
        for _ in range(3):
            writer.write(two, noise(32, 32))
    ((medium, error),) = reported
    assert medium == one
    assert words in str(error)
    assert len(list(read_frames(tmp_path / "out/two.mp4"))) == 3
    assert not [path.name for path in (tmp_path / "out").iterdir() if "one" in path.name]


def test_missing_pyav_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingLibraryError, match=r"PyAV; write pip install \"av"):
        importlib.reload(video_module)
