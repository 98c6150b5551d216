"""An image loader that reads each format upright, and refuses an unreadable image with the name of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.registry import TRANSFORMS
from PIL import Image

from xcit_dense.errors import UserError
from xcit_dense.media.decode import decode_upright
from xcit_dense.media.images import UNREADABLE, find_fault
from xcit_dense.mm.config.walk import dicts_in

_TURNED = ("color", "grayscale")  # mmcv's kinds of images that follow the EXIF orientation


@TRANSFORMS.register_module(force=True)
class LoadCheckedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, upright in each file format, with a clear error for an unreadable image.

    The image is turned by :func:`xcit_dense.media.decode.decode_upright`. mmcv's transform raises the error of OpenCV,
    which does not name the file if the file is empty.

    Configs name mmcv's transform, because the inferencers of MMDetection and MMSegmentation look for that name in the
    test pipeline. :func:`use_checked_loading` puts this transform in its place when a pipeline is built.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Loads an image.

        Args:
            results: A sample with the key ``'img_path'``. ``'width'`` and ``'height'`` are the size in the annotations.
                Without these keys, the size of the label map ``'seg_map_path'`` takes their place.

        Returns:
            The sample, as mmcv's transform returns it.

        Raises:
            UserError: The file is missing, empty, cut short or not an image.
        """
        path = str(results["img_path"])
        # Another reader or another kind of image was chosen in the config. mmcv documents how it is turned.
        if self.file_client_args is not None or self.imdecode_backend != "cv2" or self.color_type not in _TURNED:
            return self._transform_as_mmcv(results, path)
        content = b""
        try:
            content = fileio.get(path, backend_args=self.backend_args)
            image = decode_upright(content, self.color_type, lambda: _find_entry(results))
        except (OSError, cv2.error) as error:
            if self.ignore_empty:
                return None
            raise _unreadable(path, content, error) from error
        if image is None:
            if self.ignore_empty:
                return None
            raise _unreadable(path, content, None)
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results

    def _transform_as_mmcv(self, results: dict[str, Any], path: str) -> dict[str, Any] | None:
        try:
            return super().transform(results)
        except (AssertionError, OSError, cv2.error) as error:
            raise _unreadable(path, b"", error) from error


def _unreadable(path: str, content: bytes, error: Exception | None) -> UserError:
    if "://" in path and isinstance(error, OSError):
        fault = str(error)
    elif content:
        fault = find_fault(content)
    else:
        fault = find_file_fault(Path(path))
    return UserError(
        f"The image {path} cannot be read: {fault}; replace it by an intact image, or take it out of the data set."
    )


def _find_entry(results: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height in the annotations of a sample."""
    if "width" in results and "height" in results:
        return results["width"], results["height"]
    label = results.get("seg_map_path")
    if label is None or "://" in str(label):
        return None
    try:
        with Image.open(label) as image:
            return image.size
    except UNREADABLE:  # the transform that reads the label map reports the error
        return None


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


def find_file_fault(path: Path) -> str:
    """Finds out why OpenCV cannot read an image file.

    Args:
        path: The file.

    Returns:
        The reason, a clause.
    """
    try:
        return find_fault(path.read_bytes())
    except OSError:
        return "there is no such file"
