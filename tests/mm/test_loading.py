"""An unreadable image is refused by name, in both libraries. mmcv's own loader stays as it is."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmcv import transforms
from mmengine.registry import TRANSFORMS

from tests.helpers.models import raises_user_error
from xcit_dense.mm.loading import LoadCheckedImage, use_checked_loading


@pytest.fixture(params=["mmdet", "mmseg"])
def load(request):
    """Loads the image of this path with the transform that replaces the transform of a config."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    registry = importlib.import_module(f"{request.param}.registry").TRANSFORMS
    step = {"type": "LoadImageFromFile"}
    use_checked_loading(step)
    transform = registry.build(step)
    assert isinstance(transform, LoadCheckedImage)
    return lambda path: transform({"img_path": str(path)})


def content(kind):
    """The bytes of a noise image in a format."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_an_intact_image_is_loaded_as_mmcv_loads_it(load, tmp_path, kind):
    (tmp_path / "a").write_bytes(content(kind))
    got = load(tmp_path / "a")
    expected = transforms.LoadImageFromFile()({"img_path": str(tmp_path / "a")})
    assert np.array_equal(got.pop("img"), expected.pop("img"))
    assert got == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_an_image_that_was_cut_short_is_named(load, tmp_path, kind, part):
    intact = content(kind)
    (tmp_path / "a.jpg").write_bytes(intact[: int(part * len(intact))])
    with raises_user_error(
        f"The image {tmp_path / 'a.jpg'} cannot be read", kind, "may be cut short", "out of the data set"
    ):
        load(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><title>404</title>", "the file is not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "the file is not an image"),
        (None, "there is no such file"),
    ],
    ids=["empty", "a page of HTML", "the start of a header", "missing"],
)
def test_a_file_that_is_not_an_image_is_named(load, tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with raises_user_error(f"The image {tmp_path / 'a.jpg'} cannot be read", words):
        load(tmp_path / "a.jpg")


def test_an_address_keeps_the_cause_of_its_own(load):
    with raises_user_error("The image http://127.0.0.1:9/a.jpg cannot be read", "refused"):
        load("http://127.0.0.1:9/a.jpg")


@pytest.mark.parametrize("kind", ["LoadImageFromFile", "mmcv.LoadImageFromFile", transforms.LoadImageFromFile])
def test_the_loader_is_replaced_wherever_a_config_names_it(kind):
    inner = {"type": "CocoDataset", "pipeline": [{"type": kind, "to_float32": True}, {"type": "LoadAnnotations"}]}
    loader = {
        "batch_size": 2,
        "dataset": {"type": "ConcatDataset", "datasets": [{"type": "Wrapper", "dataset": inner}]},
    }
    use_checked_loading(loader)
    assert inner["pipeline"] == [
        {"type": "mmengine.LoadCheckedImage", "to_float32": True},
        {"type": "LoadAnnotations"},
    ]


def test_a_missing_part_is_accepted():
    use_checked_loading(None)


def test_mmcvs_own_loader_stays_registered():
    assert TRANSFORMS.get("LoadImageFromFile") is transforms.LoadImageFromFile
