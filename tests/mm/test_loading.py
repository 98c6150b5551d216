"""Pictures that cannot be read are refused by name, in both libraries."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmcv import transforms

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error


@pytest.fixture(params=["mmdet", "mmseg"])
def load(request):
    """The transform that a config of a library names, on a path."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    registry = importlib.import_module(f"{request.param}.registry").TRANSFORMS
    transform = registry.build({"type": "LoadImageFromFile"})
    assert isinstance(transform, transforms.LoadImageFromFile)
    return lambda path: transform({"img_path": str(path)})


def content(kind):
    """Bytes of a picture of noise in a format."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_whole_pictures_are_what_they_were(load, tmp_path, kind):
    (tmp_path / "a").write_bytes(content(kind))
    got = load(tmp_path / "a")
    expected = transforms.LoadImageFromFile()({"img_path": str(tmp_path / "a")})
    assert np.array_equal(got.pop("img"), expected.pop("img"))
    assert got == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_picture_that_was_cut_short_is_named(load, tmp_path, kind, part):
    whole = content(kind)
    (tmp_path / "a.jpg").write_bytes(whole[: int(part * len(whole))])
    with raises_user_error(
        f"The picture {tmp_path / 'a.jpg'} cannot be read", kind, "may be cut short", "out of the data set"
    ):
        load(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><title>404</title>", "the file is no picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "the file is no picture"),
        (None, "there is no such file"),
    ],
    ids=["empty", "a page of HTML", "the start of a header", "absent"],
)
def test_a_file_that_is_no_picture_is_named(load, tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with raises_user_error(f"The picture {tmp_path / 'a.jpg'} cannot be read", words):
        load(tmp_path / "a.jpg")


def test_an_address_keeps_the_cause_of_its_own(load):
    with raises_user_error("The picture http://127.0.0.1:9/a.jpg cannot be read", "refused"):
        load("http://127.0.0.1:9/a.jpg")
