"""Pictures that cannot be read are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
from mmcv.transforms import loading
from mmengine.registry import TRANSFORMS
from PIL import Image

from xcit_dense.errors import UserError


@TRANSFORMS.register_module(force=True)
class LoadImageFromFile(loading.LoadImageFromFile):
    """mmcv's transform of this name, and in its place; a picture that cannot be read is refused in one sentence.

    mmcv's raises whatever OpenCV does, which for an empty file does not say which.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Loads a picture.

        Args:
            results: With ``'img_path'``.

        Returns:
            As mmcv's.

        Raises:
            UserError: The file is absent, empty, cut short or no picture.
        """
        try:
            return super().transform(results)
        except (AssertionError, OSError, cv2.error) as error:
            path = str(results["img_path"])
            fault = str(error) if "://" in path else find_fault(Path(path))
            raise UserError(
                f"The picture {path} cannot be read: {fault}; put a whole one there, or take it out of the data set."
            ) from error


def find_fault(path: Path) -> str:
    """Why a picture cannot be read.

    Args:
        path: The file, of which OpenCV makes nothing.
    """
    if not path.is_file():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "the file is empty"
    try:
        with Image.open(path) as picture:
            kind = picture.format
    except OSError:
        return "the file is no picture"
    return f"OpenCV makes nothing of this {kind}, which may be cut short"
