"""Images and videos of a command line are found, and their outputs get unique names."""

import pytest

from tests.helpers.models import raises_user_error
from xcit_dense.media.inputs import find_media


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


def test_a_directory_gives_all_images_and_videos_below_it_in_order(tree):
    tree("in/b.PNG", "in/a.jpg", "in/notes.txt", "in/.hidden.jpg", "in/.cache/a.jpg", "in/deep/er/c.webp", "in/v.mp4")
    found = find_media(["in"])
    assert [medium.name for medium in found] == ["a.jpg", "b.PNG", "v.mp4", "deep/er/c.webp"]
    assert [medium.is_video for medium in found] == [False, False, True, False]


def test_a_pattern_gives_the_files_that_match(tree):
    tree("in/a.jpg", "in/b.png", "in/deep/c.jpg", "in/deep/notes.txt")
    assert [medium.name for medium in find_media(["in/*.jpg"])] == ["a.jpg"]
    assert [medium.name for medium in find_media(["in/**/*.jpg"])] == ["a.jpg", "deep/c.jpg"]
    assert [medium.name for medium in find_media(["in/d*"])] == ["c.jpg"]


def test_each_file_is_found_once_in_the_order_of_the_inputs(tree):
    root = tree("in/a.jpg", "in/b.jpg")
    found = find_media(["in/b.jpg", "in", "./in/../in/a.jpg", "in/*.jpg"])
    assert [medium.path for medium in found] == [root / "in/b.jpg", root / "in/a.jpg"]


def test_links_to_directories_are_followed_without_cycles(tree):
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


def test_a_file_is_found_with_any_suffix_and_with_pattern_characters_in_its_name(tree):
    tree("a[1].jpg", "photo")
    assert [medium.name for medium in find_media(["a[1].jpg", "photo"])] == ["a[1].jpg", "photo"]


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
@pytest.mark.parametrize("as_directory", [True, False])
def test_inputs_have_unique_names_and_stems(tree, names, as_directory):
    root = tree(*(f"in/{name}" for name in names))
    found = find_media(["in"] if as_directory else [f"in/{name}" for name in names])
    assert {medium.path for medium in found} == {root / "in" / name for name in names}
    assert {medium.name for medium in found} == set(names)
    assert len({medium.stem for medium in found}) == len(names)


def test_names_of_inputs_in_several_directories_start_at_the_common_directory(tree):
    tree("trip/a/x.jpg", "trip/b/c/x.jpg")
    found = find_media(["trip/a", "trip/b/c/x.jpg"])
    assert [(medium.name, medium.stem) for medium in found] == [("a/x.jpg", "a/x"), ("b/c/x.jpg", "b/c/x")]


@pytest.mark.parametrize("text", ["gone.jpg", "gone", "a/gone.jpg"])
def test_a_missing_input_is_an_error(tree, text):
    tree("a/x.jpg")
    with raises_user_error(text, "check the path"):
        find_media(["a", text])


@pytest.mark.parametrize("text", ["empty", "*.jpg", "empty/**"])
def test_an_input_without_images_is_an_error(tree, text):
    tree("a/x.jpg", "empty/notes.txt")
    with raises_user_error(text, "no images or videos", ".jpg", ".mp4"):
        find_media(["a", text])
