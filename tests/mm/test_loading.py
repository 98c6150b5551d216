"""Images are read upright, and an unreadable image is refused by name, in both libraries."""

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
from tests.helpers.turned import FORMATS, is_close, write_turned
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
    return lambda path, **sample: transform({"img_path": str(path), **sample})


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


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_read_upright(load, tmp_path, form, orientation):
    path, _, upright = write_turned(tmp_path / "a", form, orientation)
    sample = load(path, width=upright.width, height=upright.height)
    assert is_close(sample["img"][..., ::-1], upright)
    assert sample["img_shape"] == sample["ori_shape"] == upright.size[::-1]
    assert is_close(load(path)["img"][..., ::-1], upright)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_stays_as_stored_if_its_annotations_have_that_size(load, tmp_path, form, orientation):
    path, stored, _ = write_turned(tmp_path / "a", form, orientation)
    assert is_close(load(path, width=stored.width, height=stored.height)["img"][..., ::-1], stored)
    Image.new("L", stored.size).save(tmp_path / "label.png")
    assert is_close(load(path, seg_map_path=str(tmp_path / "label.png"))["img"][..., ::-1], stored)


def test_a_label_map_that_is_missing_does_not_turn_an_image(load, tmp_path):
    path, _, upright = write_turned(tmp_path / "a", "WebP", 6)
    assert is_close(load(path, seg_map_path=str(tmp_path / "gone.png"))["img"][..., ::-1], upright)


@pytest.mark.parametrize("options", [{"to_float32": True}, {"color_type": "grayscale"}])
@pytest.mark.parametrize("form", FORMATS)
def test_options_of_mmcv_are_followed(tmp_path, form, options):
    path, _, upright = write_turned(tmp_path / "a", form, 6)
    image = LoadCheckedImage(**options)({"img_path": str(path)})["img"]
    assert image.shape[:2] == upright.size[::-1]
    plain, *_ = write_turned(tmp_path / "b", form, 1)
    expected = transforms.LoadImageFromFile(**options)({"img_path": str(plain)})["img"]
    got = LoadCheckedImage(**options)({"img_path": str(plain)})["img"]
    assert np.array_equal(got, expected)
    assert got.dtype == image.dtype == expected.dtype


def test_images_that_a_config_wants_unchanged_are_not_turned(tmp_path):
    path, stored, _ = write_turned(tmp_path / "a", "WebP", 6)
    assert is_close(LoadCheckedImage(color_type="unchanged")({"img_path": str(path)})["img"][..., ::-1], stored)


def test_empty_files_are_passed_over_if_the_config_says_so(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert LoadCheckedImage(ignore_empty=True)({"img_path": str(tmp_path / "a.jpg")}) is None
    assert LoadCheckedImage(ignore_empty=True)({"img_path": str(tmp_path / "gone.jpg")}) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((40, 48), np.int32), "whole numbers of 32 bits"),
        (np.zeros((40, 48), np.float32), "floating-point numbers of 32 bits"),
    ],
)
def test_a_tiff_file_that_opencv_cannot_read_has_its_true_reason(load, tmp_path, values, reason):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with raises_user_error(f"The image {tmp_path / 'a.tif'} cannot be read", reason, "8 or 16 bits"):
        load(tmp_path / "a.tif")


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
