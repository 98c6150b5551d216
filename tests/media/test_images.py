"""Image files are written atomically, and read upright in RGB."""

import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.models import raises_user_error
from xcit_dense.media.images import ImageError, open_image, write_image


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
