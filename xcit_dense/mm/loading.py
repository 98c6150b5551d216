"""An image loader that refuses an unreadable image in one sentence with the name of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

from xcit_dense.errors import UserError
from xcit_dense.mm.config.walk import dicts_in


@TRANSFORMS.register_module(force=True)
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with a clear error for an unreadable image.

    mmcv's transform raises the error of OpenCV, which does not name the file if the file is empty. Configs name mmcv's
    transform, because the inferencers of MMDetection and MMSegmentation look for that name in the test pipeline.
    :func:`use_checked_loading` puts this transform in its place when a pipeline is built.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Loads an image.

        Args:
            results: A sample with the key ``'img_path'``.

        Returns:
            The sample, as mmcv's transform returns it.

        Raises:
            UserError: The file is missing, empty, cut short or not an image.
        """
        try:
            return super().transform(results)
        except (AssertionError, OSError, cv2.error) as error:
            path = str(results["img_path"])
            fault = str(error) if "://" in path else find_fault(Path(path))
            raise UserError(
                f"The image {path} cannot be read: {fault}; replace it by an intact image, or take it out of the data "
                "set."
            ) from error


def use_checked_loading(node: Any) -> None:
    """Replaces mmcv's image loader by :class:`LoadCheckedImage` in a part of a config, in place.

    Args:
        node: A data loader, a data set or a pipeline, with what is nested in it. None is accepted.
    """
    for part in dicts_in(node):
        kind = part.get("type")
        is_name = isinstance(kind, str) and kind.rpartition(".")[2] == "LoadImageFromFile"
        if is_name or kind is LoadImageFromFile:
            part["type"] = "mmengine.LoadCheckedImage"


def find_fault(path: Path) -> str:
    """Finds out why OpenCV cannot read an image.

    Args:
        path: The file.

    Returns:
        The reason, a clause.
    """
    if not path.is_file():
        return "there is no such file"
    if path.stat().st_size == 0:
        return "the file is empty"
    try:
        with Image.open(path) as image:
            kind = image.format
    except OSError:
        return "the file is not an image"
    return f"OpenCV cannot decode this {kind}, which may be cut short"
