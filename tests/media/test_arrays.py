"""Images in memory become upright RGB arrays. Other values are refused with advice."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.models import raises_user_error
from xcit_dense.media.arrays import is_image, to_bands, to_rgb

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
TENSOR = torch.from_numpy(IMAGE).permute(2, 0, 1)


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        np.asfortranarray(IMAGE),
        Image.fromarray(IMAGE),
        Image.fromarray(np.dstack([IMAGE, IMAGE[..., :1]])),
        TENSOR,
        TENSOR / 255,
        (TENSOR.double() / 255).requires_grad_(),
    ],
    ids=["array", "array by columns", "Pillow", "Pillow with opacity", "tensor", "floats", "tensor with a gradient"],
)
def test_an_image_in_memory_becomes_an_rgb_array(image):
    assert is_image(image)
    got = to_rgb(image)
    assert (got.dtype, got.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(got, IMAGE)


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE[..., :1], TENSOR[:1], Image.fromarray(IMAGE[..., 0])])
def test_a_grey_image_gets_three_equal_channels(image):
    assert np.array_equal(to_rgb(image), np.repeat(IMAGE[..., :1], 3, axis=2))


def test_a_half_precision_tensor_is_rounded_to_the_nearest_value():
    difference = to_rgb((TENSOR / 255).bfloat16()).astype(int) - IMAGE
    assert abs(difference).max() <= 1


def test_an_image_of_pillow_is_turned_upright():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned by 90 degrees
    Image.fromarray(IMAGE).save(file, "PNG", exif=exif)
    assert np.array_equal(to_rgb(Image.open(file)), np.rot90(IMAGE, -1))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (IMAGE / 255, ["float64", "(255 * image)"]),
        (IMAGE.astype(np.uint16), ["uint16", "uint8"]),
        (np.dstack([IMAGE, IMAGE]), ["6 channels", "RGB"]),
        (IMAGE.transpose(2, 0, 1), ["30 channels", "channels last"]),
        (IMAGE[None], ["(1, 20, 30, 3)", "list(images)"]),
        (IMAGE[:0], ["(0, 30, 3)", "no pixels"]),
        (TENSOR[None], ["(1, 3, 20, 30)", "list(images)"]),
        (TENSOR.float(), ["0 to 255", "0 to 1"]),
        (TENSOR / 255 - 0.5, ["from -0.5", "normalises"]),
        (torch.full((3, 2, 2), float("nan")), ["nan"]),
        (TENSOR.int(), ["int32", "uint8"]),
        ("street.jpg", ["str is not an image"]),
        (None, ["NoneType is not an image"]),
    ],
)
def test_other_values_are_refused_with_advice(image, words):
    with raises_user_error(*words):
        to_rgb(image)


def test_bands_keep_their_values():
    bands = np.random.default_rng(0).integers(0, 60000, (20, 30, 5), np.uint16)
    assert np.array_equal(to_bands(bands, 5), bands)
    assert np.array_equal(to_bands(torch.from_numpy(bands.astype(np.float32)).permute(2, 0, 1), 5), bands)
    with raises_user_error("5 bands", "needs 4"):
        to_bands(bands, 4)
    with raises_user_error("not finite"):
        to_bands(np.full((2, 2, 4), np.inf), 4)
