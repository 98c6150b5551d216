"""Pictures and videos: found by any name, each with a name of its own for what comes out of it."""

import os
import resource

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="OpenCV is not installed")
import cv2

from tests.helpers.models import raises_user_error
from xcit_dense.media.images import write_image
from xcit_dense.media.inputs import Medium, find_media
from xcit_dense.media.video import FrameWriter, count_frames, frame_rate, read_frames


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Makes empty files in the current directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


@pytest.fixture
def clip(tmp_path):
    """Writes a video in which each frame has a grey of its own."""

    def make(path=tmp_path / "clip.mp4", frames=7, size=(64, 48), rate=12.5):
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        assert video.isOpened(), "this OpenCV cannot write videos"
        for number in range(frames):
            video.write(np.full((size[1], size[0], 3), 30 * number % 256, np.uint8))
        video.release()
        return path

    return make


# Finding


def test_a_directory_gives_all_pictures_and_videos_below_it_in_order(tree):
    tree("in/b.PNG", "in/a.jpg", "in/notes.txt", "in/.hidden.jpg", "in/.cache/a.jpg", "in/deep/er/c.webp", "in/v.mp4")
    found = find_media(["in"])
    assert [medium.name for medium in found] == ["a.jpg", "b.PNG", "v.mp4", "deep/er/c.webp"]
    assert [medium.is_video for medium in found] == [False, False, True, False]


def test_a_pattern_gives_what_it_matches(tree):
    tree("in/a.jpg", "in/b.png", "in/deep/c.jpg", "in/deep/notes.txt")
    assert [medium.name for medium in find_media(["in/*.jpg"])] == ["a.jpg"]
    assert [medium.name for medium in find_media(["in/**/*.jpg"])] == ["a.jpg", "deep/c.jpg"]
    assert [medium.name for medium in find_media(["in/d*"])] == ["c.jpg"]


def test_each_is_taken_once_in_the_order_of_the_inputs(tree):
    root = tree("in/a.jpg", "in/b.jpg")
    found = find_media(["in/b.jpg", "in", "./in/../in/a.jpg", "in/*.jpg"])
    assert [medium.path for medium in found] == [root / "in/b.jpg", root / "in/a.jpg"]


def test_links_to_directories_are_followed_but_not_in_circles(tree):
    root = tree("in/a.jpg", "in/deep/b.jpg", "elsewhere/c.jpg")
    (root / "in/deep/up").symlink_to(root / "in")
    (root / "in/link").symlink_to(root / "elsewhere")
    (root / "in/link/self").symlink_to(root / "in/link")
    for text in ("in", "in*"):
        assert [medium.path.relative_to(root / "in").as_posix() for medium in find_media([text])] == [
            "a.jpg",
            "deep/b.jpg",
            "link/c.jpg",
        ]


def test_a_file_is_taken_whatever_its_ending_and_though_its_name_looks_like_a_pattern(tree):
    tree("a[1].jpg", "picture")
    assert [medium.name for medium in find_media(["a[1].jpg", "picture"])] == ["a[1].jpg", "picture"]


@pytest.mark.parametrize(
    "names",
    [
        ("a/x.jpg", "b/x.jpg"),
        ("x.jpg", "x.png", "x.jpeg"),
        ("x.jpg", "x.png", "x.png.jpg"),
        ("x.png.jpg", "x.jpg", "x.png"),
        ("x.jpg", "x.mp4", "x/000000.jpg"),
        ("a/x.jpg", "x.jpg"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_no_two_inputs_share_a_name(tree, names, whole):
    root = tree(*(f"in/{name}" for name in names))
    found = find_media(["in"] if whole else [f"in/{name}" for name in names])
    assert {medium.path for medium in found} == {root / "in" / name for name in names}
    assert {medium.name for medium in found} == set(names)
    assert len({medium.stem for medium in found}) == len(names)


def test_inputs_of_unlike_places_keep_the_part_that_tells_them_apart(tree):
    tree("trip/a/x.jpg", "trip/b/c/x.jpg")
    found = find_media(["trip/a", "trip/b/c/x.jpg"])
    assert [(medium.name, medium.stem) for medium in found] == [("a/x.jpg", "a/x"), ("b/c/x.jpg", "b/c/x")]


@pytest.mark.parametrize("text", ["gone.jpg", "gone", "a/gone.jpg"])
def test_an_absent_input_is_refused(tree, text):
    tree("a/x.jpg")
    with raises_user_error(text, "check the path"):
        find_media(["a", text])


@pytest.mark.parametrize("text", ["empty", "*.jpg", "empty/**"])
def test_an_input_without_pictures_is_refused(tree, text):
    tree("a/x.jpg", "empty/notes.txt")
    with raises_user_error(text, "no pictures or videos", ".jpg", ".mp4"):
        find_media(["a", text])


# Reading videos


def test_a_video_is_read_frame_by_frame(clip):
    frames = list(read_frames(clip()))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 7
    assert [round(frame.mean() / 30) for frame in frames] == list(range(7))
    assert count_frames(Medium(clip(), "clip.mp4", "clip")) == 7
    assert frame_rate(clip()) == pytest.approx(12.5)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_what_is_no_video_is_an_error(clip, content):
    path = clip()
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    assert count_frames(Medium(path, "clip.mp4", "clip")) == 1
    assert frame_rate(path) == 25
    with pytest.raises(OSError, match="not a video"):
        next(read_frames(path))


def test_a_video_cut_short_gives_the_frames_that_are_there_and_an_error(clip, tmp_path):
    path = clip(tmp_path / "clip.avi", frames=40)
    path.write_bytes(b"00dc".join(path.read_bytes().split(b"00dc")[:22]))  # with which each frame begins
    frames = read_frames(path)
    there = [next(frames) for _ in range(15)]
    assert [frame.shape for frame in there] == [(48, 64, 3)] * 15
    with pytest.raises(OSError, match=r"after \d+ of 40 frames"):
        list(frames)


@pytest.mark.parametrize("property_", ["CAP_PROP_FRAME_COUNT", "CAP_PROP_FPS"])
def test_a_video_that_says_a_little_wrong_is_whole(clip, monkeypatch, property_):
    """A frame or two more, or three times as many a second, as those of frames that last unequally long say."""
    path, original = clip(frames=20), cv2.VideoCapture

    class Capture:
        def __init__(self, name):
            self.video = original(name)
            self.read, self.release = self.video.read, self.video.release

        def get(self, what):
            value = self.video.get(what)
            if property_ == "CAP_PROP_FRAME_COUNT":
                return value + 2 * (what == cv2.CAP_PROP_FRAME_COUNT)
            return value * (3 if what in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS) else 1)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    assert len(list(read_frames(path))) == 20


# Writing


def refuse(medium, error):
    """What a writer calls that should have nothing to call."""
    pytest.fail(f"{medium.name}: {error}")


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_pictures_become_jpeg_files_of_good_quality(tmp_path):
    smooth = np.array(Image.fromarray(noise(8, 6)).resize((80, 60), Image.Resampling.BICUBIC))
    with FrameWriter(tmp_path / "out", refuse) as writer:
        writer.write(Medium(tmp_path / "a/x.png", "a/x.png", "a/x"), smooth)
    with Image.open(tmp_path / "out/a/x.jpg") as picture:
        assert picture.format == "JPEG"
        assert abs(np.asarray(picture, int) - smooth).mean() < 4


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1)])
def test_frames_become_a_video_as_fast_as_theirs(clip, tmp_path, size):
    medium = Medium(clip(), "deep/clip.mov", "deep/clip")
    with FrameWriter(tmp_path / "out", refuse) as writer:
        for number in range(5):
            writer.write(medium, np.full((size[1], size[0], 3), (0, 40 * number, 0), np.uint8))
        assert [path.name for path in (tmp_path / "out/deep").iterdir()] == [".clip.part.mp4"], "not yet whole"
    path = tmp_path / "out/deep/clip.mp4"
    assert [path.name for path in path.parent.iterdir()] == ["clip.mp4"]
    assert frame_rate(path) == pytest.approx(12.5)
    frames = list(read_frames(path))
    assert len(frames) == 5
    assert frames[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2, 3)
    assert [round(frame[..., 1].mean() / 40) for frame in frames] == list(range(5)), "not green, or not in order"


def test_videos_may_follow_each_other(clip, tmp_path):
    with FrameWriter(tmp_path / "out", refuse) as writer:
        for name in ("one", "two"):
            for _ in range(2):
                writer.write(Medium(clip(tmp_path / f"{name}.mp4"), f"{name}.mp4", name), noise(32, 32))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.mp4", "two.mp4"]


def test_a_video_that_breaks_off_leaves_nothing(clip, tmp_path):
    def interrupted():
        with FrameWriter(tmp_path / "out", refuse) as writer:
            writer.write(Medium(clip(), "clip.mp4", "clip"), noise(32, 32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("fault", ["of a size that MPEG-4 has not", "of two sizes", "on a full disk"])
def test_a_video_that_cannot_be_written_is_told_and_the_next_goes_on(clip, tmp_path, monkeypatch, fault):
    told = []
    one, two = (Medium(clip(tmp_path / f"{name}.mp4"), f"{name}.mp4", name) for name in ("one", "two"))
    with FrameWriter(tmp_path / "out", lambda *told_: told.append(told_)) as writer:
        if fault == "of a size that MPEG-4 has not":
            for _ in range(2):
                writer.write(one, noise(9000, 16))
            words = "9000 x 16"
        elif fault == "of two sizes":
            writer.write(one, noise(32, 32))
            writer.write(one, noise(32, 48))
            words = "1 of 2 frames"
        else:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            try:
                for _ in range(4):
                    writer.write(one, noise(64, 64))
                writer.write(Medium(tmp_path / "a.png", "a.png", "a"), noise(2, 2))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            words = "0 of 4 frames"
        for _ in range(3):
            writer.write(two, noise(32, 32))
    ((medium, error),) = told
    assert medium == one
    assert words in str(error)
    assert len(list(read_frames(tmp_path / "out/two.mp4"))) == 3
    assert not [path.name for path in (tmp_path / "out").iterdir() if "one" in path.name]


def test_a_picture_wider_than_jpeg_can_hold_becomes_smaller(tmp_path):
    write_image(tmp_path / "a.jpg", np.full((4, 70_000, 3), 200, np.uint8))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (65_500, 4)
        assert abs(np.asarray(picture, int) - 200).max() < 3


@pytest.mark.parametrize("pixels", [noise(7, 5)[..., 0], noise(7, 5)[..., 0].astype(np.uint16) + 300])
def test_label_maps_come_back_as_they_were(tmp_path, pixels):
    write_image(tmp_path / "new/a.png", pixels)
    with Image.open(tmp_path / "new/a.png") as picture:
        assert np.array_equal(np.asarray(picture), pixels)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with raises_user_error("file/a.jpg", "cannot be written", "name another"):
        write_image(tmp_path / "file/a.jpg", noise(4, 4))

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    with raises_user_error("a.jpg", os.strerror(28)):
        write_image(tmp_path / "new/a.jpg", noise(4, 4))
    assert list((tmp_path / "new").iterdir()) == []
