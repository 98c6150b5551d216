"""Decodes image files upright with OpenCV: the one way for training, prediction and exported models."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.media.images import UNREADABLE, find_orientation, may_be_turned, read_pixels, turn

_FLAGS = {"color": cv2.IMREAD_COLOR, "grayscale": cv2.IMREAD_GRAYSCALE}
_FROM_RGB = {"color": cv2.COLOR_RGB2BGR, "grayscale": cv2.COLOR_RGB2GRAY}


def decode_upright(
    content: bytes, kind: str = "color", find_entry: Callable[[], tuple[int, int] | None] = lambda: None
) -> npt.NDArray[Any] | None:
    """Decodes an image, upright in each file format.

    OpenCV turns JPEG files by their EXIF orientation, but whether it turns other formats depends on its version. This
    function turns all formats by :func:`xcit_dense.media.images.find_orientation`.

    Args:
        content: The bytes of the file.
        kind: ``'color'`` or ``'grayscale'``.
        find_entry: Returns width and height in the annotations of the image, or None. It is called only if the image
            may be turned.

    Returns:
        (H, W, 3), BGR, or (H, W), uint8. None if OpenCV cannot decode the file.

    Raises:
        cv2.error: OpenCV cannot decode the file, because the file is empty.
    """
    buffer = np.frombuffer(content, np.uint8)
    if not may_be_turned(content):
        return cv2.imdecode(buffer, _FLAGS[kind])
    try:
        with Image.open(io.BytesIO(content)) as image:
            entry = find_entry()
            orientation = find_orientation(image, entry)
            if image.format == "TIFF" and find_orientation(image) != 1:  # OpenCV turns these files in any case
                return cv2.cvtColor(read_pixels(image, entry), _FROM_RGB[kind])
    except UNREADABLE:
        return cv2.imdecode(buffer, _FLAGS[kind])
    stored = cv2.imdecode(buffer, _FLAGS[kind] | cv2.IMREAD_IGNORE_ORIENTATION)
    return stored if stored is None or orientation == 1 else turn(stored, orientation)
