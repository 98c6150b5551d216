"""Images in memory: Pillow's images, NumPy's arrays and PyTorch's tensors, as upright RGB arrays.

This module recognises a tensor by its methods and does not import torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import UserError
from xcit_dense.media.images import read_pixels
from xcit_dense.structures import Pixels


def is_image(value: Any) -> bool:
    """Returns whether a value is one image in memory: an image of Pillow, an array or a tensor.

    Args:
        value: The value.
    """
    return isinstance(value, Image.Image | np.ndarray) or _is_tensor(value)


def to_rgb(image: Any) -> Pixels:
    """Converts an image in memory to RGB. The order of the channels cannot be checked: give RGB, not BGR.

    OpenCV reads images as BGR. Convert its images with ``image[..., ::-1]`` first.

    Args:
        image: One of:

            - an image of Pillow, which is turned upright by its EXIF orientation;
            - an array (H, W, 3) in RGB or (H, W) in grey, uint8;
            - a tensor (3, H, W) in RGB or (1, H, W) in grey: uint8, or floating-point numbers from 0 to 1.

    Returns:
        (H, W, 3), RGB, uint8, contiguous.

    Raises:
        UserError: The value is something else.

    Example:
        >>> to_rgb(np.zeros((20, 30), np.uint8)).shape
        (20, 30, 3)
    """
    if isinstance(image, Image.Image):
        return read_pixels(image)
    pixels = _to_array(image)
    if pixels.dtype.kind == "f" and _is_tensor(image):
        pixels = _from_unit_range(pixels)
    if pixels.dtype != np.uint8:
        raise UserError(
            f"The image has values of the type {pixels.dtype}; give uint8 values from 0 to 255. For values from 0 to 1 "
            "write (255 * image).round().astype('uint8')."
        )
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] != 3:
        raise UserError(
            f"The image has {pixels.shape[2]} channels; give RGB. Of RGBA write image[..., :3]. A tensor has its "
            "channels first, and an array has its channels last."
        )
    return np.ascontiguousarray(pixels)


def to_bands(image: Any, count: int) -> npt.NDArray[np.float32]:
    """Converts an image in memory with any number of bands.

    Args:
        image: An array (H, W, N) or a tensor (N, H, W), with the bands in the order of the model, and with the units of
            the image files.
        count: The number N of bands that the model needs.

    Returns:
        (H, W, N), float32.

    Raises:
        UserError: The image has another number of bands, or values that are not finite.

    Example:
        >>> to_bands(np.full((20, 30, 5), 7, np.uint16), count=5).dtype
        dtype('float32')
    """
    pixels = np.asarray(image) if isinstance(image, Image.Image) else _to_array(image)
    found = 1 if pixels.ndim == 2 else pixels.shape[2]
    if found != count:
        raise UserError(f"The image has {found} band{'s' * (found != 1)}, but the model needs {count}; give all bands.")
    bands = np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], count), np.float32)
    if not np.isfinite(bands).all():
        raise UserError("The image has values that are not finite; give these pixels a number, for example 0.")
    return bands


def _is_tensor(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("detach", "cpu", "permute"))


def _to_array(image: Any) -> npt.NDArray[Any]:
    """Converts an array (H, W[, C]) or a tensor (C, H, W) to an array (H, W, C) with pixels."""
    if not is_image(image):
        raise UserError(
            f"{type(image).__name__} is not an image; give a path, an image of Pillow, an array or a tensor."
        )
    if _is_tensor(image):
        if image.ndim != 3:
            raise UserError(
                f"The tensor has the shape {tuple(image.shape)}; give (3, H, W), and list(images) for many."
            )
        tensor = image.detach().cpu().permute(1, 2, 0)
        # NumPy does not have bfloat16.
        pixels: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    else:
        if image.ndim not in (2, 3):
            raise UserError(f"The array has the shape {image.shape}; give (H, W, 3), and list(images) for many.")
        pixels = image if image.ndim == 3 else image[..., None]
    if pixels.size == 0:
        raise UserError(f"The image has the shape {tuple(image.shape)} and so no pixels; give an image with pixels.")
    return pixels


def _from_unit_range(pixels: npt.NDArray[np.floating]) -> Pixels:
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # true for NaN too
        raise UserError(
            f"The tensor has values from {low:g} to {high:g}; give floating-point numbers from 0 to 1, or uint8 from 0 "
            "to 255. The model normalises images itself."
        )
    return (255 * pixels).round().astype(np.uint8)
