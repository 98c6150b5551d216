"""Image files are written atomically, and read upright in RGB."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps, UnidentifiedImageError

from tests.helpers.models import raises_user_error
from tests.helpers.turned import FORMATS, is_close, write_turned
from xcit_dense.media.images import (
    ImageError,
    find_depth_fault,
    find_orientation,
    find_size,
    may_be_turned,
    open_image,
    read_pixels,
    write_image,
)


def noise(width, height):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_an_image_wider_than_jpeg_can_store_is_scaled_down(tmp_path):
    write_image(tmp_path / "a.jpg", np.full((4, 70_000, 3), 200, np.uint8))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.size == (65_500, 4)
        assert abs(np.asarray(image, int) - 200).max() < 3


@pytest.mark.parametrize("pixels", [noise(7, 5)[..., 0], noise(7, 5)[..., 0].astype(np.uint16) + 300])
def test_a_label_map_is_written_without_loss(tmp_path, pixels):
    write_image(tmp_path / "new/a.png", pixels)
    with Image.open(tmp_path / "new/a.png") as image:
        assert np.array_equal(np.asarray(image), pixels)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_failed_write_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with raises_user_error("file/a.jpg", "cannot be written", "name another path"):
        write_image(tmp_path / "file/a.jpg", noise(4, 4))

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    with raises_user_error("a.jpg", os.strerror(28)):
        write_image(tmp_path / "new/a.jpg", noise(4, 4))
    assert list((tmp_path / "new").iterdir()) == []


def test_an_image_is_read_upright_and_in_rgb(tmp_path):
    stored = Image.fromarray(noise(53, 37))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "rotated.png", exif=exif)
    upright = stored.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(open_image(tmp_path / "rotated.png"), upright)
    ImageOps.grayscale(stored).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"hello"])
def test_an_unreadable_image_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png is not a readable image"):
        open_image(tmp_path / "a.png")


def test_a_missing_image_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ImageError, match=r"No image at .*gone\.png"):
        open_image(tmp_path / "gone.png")


def test_a_truncated_image_is_an_error_that_names_the_file(tmp_path):
    write_image(tmp_path / "a.jpg", noise(53, 37))
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"a\.jpg is not a readable image"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_by_each_orientation(tmp_path, form, orientation):
    path, _, upright = write_turned(tmp_path / "a", form, orientation)
    assert is_close(open_image(path), upright)
    assert may_be_turned(path.read_bytes())
    with Image.open(path) as image:
        assert find_size(image) == upright.size
        assert find_orientation(image) == orientation


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_whose_annotations_have_the_stored_size_stays_as_it_is_stored(tmp_path, form, orientation):
    path, stored, upright = write_turned(tmp_path / "a", form, orientation)
    with Image.open(path) as image:
        assert find_size(image, stored.size) == stored.size
        assert find_size(image, upright.size) == upright.size
        assert find_size(image, (7, 7)) == upright.size
        assert is_close(read_pixels(image, stored.size), stored)


def test_an_orientation_in_xmp_data_counts_as_in_exif_data(tmp_path):
    stored = Image.fromarray(noise(53, 37))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    stored.save(tmp_path / "a.jpg", xmp=xmp)
    assert may_be_turned((tmp_path / "a.jpg").read_bytes())
    assert open_image(tmp_path / "a.jpg").size == (37, 53)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_ignored(tmp_path, orientation):
    path, stored, _ = write_turned(tmp_path / "a", "PNG", orientation)
    assert is_close(open_image(path), stored)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_file_without_an_orientation_is_recognised_without_pillow(form):
    file = io.BytesIO()
    Image.fromarray(noise(53, 37)).save(file, form)
    assert not may_be_turned(file.getvalue())


def test_the_upper_bits_of_16_are_kept(tmp_path):
    Image.fromarray(np.full((4, 6), 200 << 8, np.uint16)).save(tmp_path / "a.tif")
    assert np.asarray(open_image(tmp_path / "a.tif")).tolist() == [[[200] * 3] * 6] * 4


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((4, 6), np.int32), "whole numbers of 32 bits"),
        (np.zeros((4, 6), np.float32), "floating-point numbers of 32 bits"),
        (np.zeros((4, 6), np.uint16), None),
        (np.zeros((4, 6, 3), np.uint8), None),
    ],
)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_files_of_other_values_are_recognised(values, reason, compression):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF", compression=compression)
    file.seek(0)
    found = find_depth_fault(file)
    assert found is None if reason is None else reason in found


def test_the_values_of_a_tiff_file_that_pillow_cannot_open_are_recognised():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    content = cv2.imencode(".tiff", np.zeros((4, 6, 3), np.float32), [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(content))
    assert "floating-point numbers of 32 bits" in str(find_depth_fault(io.BytesIO(content)))


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", b"MM\0+" + b"\xff" * 40, b"hello"])
def test_a_damaged_tiff_file_has_no_known_values(content):
    assert find_depth_fault(io.BytesIO(content)) is None
