"""Files are decoded upright in each format, as exported models and the loaders of the MM libraries read them."""

import io

import numpy as np
import pytest
from PIL import Image

from xcit_dense.media.decode import decode_upright

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def encode(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_an_image_on_its_side_is_turned_and_has_the_order_of_opencv(form):
    upright = np.rot90(PIXELS, -1)[..., ::-1]
    np.testing.assert_array_equal(decode_upright(encode(form, 6)), upright)


def test_an_image_whose_annotations_have_the_stored_size_stays_as_it_is():
    found = decode_upright(encode("PNG", 6), find_entry=lambda: (9, 6))
    np.testing.assert_array_equal(found, PIXELS[..., ::-1])


def test_bytes_of_no_image_give_nothing():
    assert decode_upright(b"not an image") is None
