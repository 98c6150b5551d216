"""Runs exported detectors and segmentors with ONNX Runtime or OpenVINO. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xcit_dense.errors import MissingLibraryError, UserError, did_you_mean

try:
    import cv2
except ImportError as error:
    raise MissingLibraryError(
        "OpenCV reads and resizes the images of exported models; write pip install 'xcit-dense[export]'."
    ) from error

from xcit_dense.export.metadata import INPUT, RT_INFO, Metadata
from xcit_dense.export.runtimes import import_runtime, open_onnx, open_openvino
from xcit_dense.inference.stream import Input
from xcit_dense.media.arrays import to_rgb
from xcit_dense.media.decode import decode_upright
from xcit_dense.predictions import Detection, Prediction, Segmentation
from xcit_dense.structures import Instances, Pixels

Array = npt.NDArray[Any]
Run = Callable[[Array], Sequence[Array]]


class ExportedModel:
    """An exported detector or segmentor: an :class:`xcit_dense.inference.stream.Engine`.

    Preprocessing is the test pipeline of the config that the model was exported from. Several threads may use one
    object.

    Args:
        path: A file that ``xcit-dense export`` has written: ``.onnx`` for ONNX Runtime, ``.xml`` for OpenVINO.
        threads: The number of threads of the CPU. By default the run time chooses.

    Attributes:
        path: The file.
        metadata: What the file says about the model.

    Raises:
        UserError: The file cannot be read, is not from this package, or contains a backbone without heads.
        MissingLibraryError: onnxruntime or openvino is not installed.

    Example::

        from xcit_dense.inference.exported import ExportedModel

        model = ExportedModel("model.onnx")
        (found,) = model.predict([image])  # RGB, uint8, (H, W, 3)
        print(found.xyxy, found.names)
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path)
        if path.suffix == ".pt2":
            raise UserError(
                f"{path} is a program for torch.export.load, which takes only images whose sides are multiples of the "
                "model's stride; to predict or test, export the model to a file that ends in .onnx or .xml."
            )
        if path.suffix not in _OPENERS:
            raise UserError(did_you_mean("suffix of an exported model", path.suffix or str(path), _OPENERS))
        if not path.is_file():
            raise UserError(f"{path} does not exist; write the file with xcit-dense export.")
        self.path = path
        self._run, texts = _OPENERS[path.suffix](path, threads)
        self.metadata = Metadata.from_text(texts, str(path))
        if self.metadata.task == "features":
            raise UserError(f"{path} contains a backbone, which does not predict; export the model, without --part.")

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""
        return self.metadata.classes

    @property
    def palette(self) -> Sequence[tuple[int, int, int]]:
        """The colours of the classes."""
        return self.metadata.palette

    @property
    def segments(self) -> bool:
        """Whether the model is a segmentor."""
        return self.metadata.task == "segmentation"

    def predict(self, images: Sequence[Any]) -> list[Prediction]:
        """Predicts images, one after the other.

        Args:
            images: RGB images, as for :func:`xcit_dense.media.arrays.to_rgb`.

        Returns:
            The prediction for each image.
        """
        return [self.infer([self.accept(image)])[0] for image in images]

    def read(self, path: Path) -> Input:
        """Reads an image file as the libraries' loaders do, upright, and prepares it.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be read.
        """
        pixels = decode_upright(path.read_bytes())
        if pixels is None:
            raise OSError("not an image that can be read")
        return self.accept(pixels[..., ::-1])

    def accept(self, image: Any, path: Path | None = None) -> Input:
        """Prepares an image in memory.

        Args:
            image: RGB, as for :func:`xcit_dense.media.arrays.to_rgb`.
            path: Not used.

        Raises:
            UserError: The image has another type.
        """
        pixels = to_rgb(image)
        data = self.prepare(self.resize(pixels))
        return Input(pixels, data, (pixels.shape, data.shape))

    def resize(self, image: Pixels) -> Pixels:
        """Resizes an image (H, W, 3) by the rule of the config.

        Args:
            image: The image.
        """
        if self.metadata.resize is None:
            return image
        height, width = self.metadata.resize.size(*image.shape[:2])
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

    def prepare(self, image: Pixels) -> npt.NDArray[np.float32]:
        """Makes the model's input (3, h, w) of a resized image.

        Args:
            image: (h, w, 3), RGB.
        """
        values = image.astype(np.float32)
        if self.metadata.normalise == "outside":
            mean, std = (np.array(numbers, np.float32) for numbers in (self.metadata.mean, self.metadata.std))
            values = (values - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def infer(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Runs the model.

        Args:
            inputs: A batch of images of one size.

        Returns:
            The prediction for each image.
        """
        images = np.stack([one.data for one in inputs])
        results = self.compute(images, [one.image.shape[:2] for one in inputs])
        predictions: list[Prediction] = []
        for one, result in zip(inputs, results):
            common: dict[str, Any] = {"image": one.image, "classes": self.classes, "palette": self.palette}
            if isinstance(result, Instances):
                predictions.append(Detection.from_instances(result, **common))
            else:
                predictions.append(Segmentation(labels=result, **common))
        return predictions

    def compute(
        self, images: npt.NDArray[np.float32], sizes: Sequence[tuple[int, ...]]
    ) -> list[Instances | npt.NDArray[np.integer]]:
        """Runs the model on prepared images, and brings the results to the sizes of the original images.

        Args:
            images: (B, 3, h, w).
            sizes: The height and width of each original image.

        Returns:
            For each image, the objects or the label map.
        """
        outputs = dict(zip(self.metadata.outputs, self._run(images)))
        results: list[Instances | npt.NDArray[np.integer]] = []
        for number, (height, width) in enumerate(sizes):
            own = {name: output[number] for name, output in outputs.items()}
            if not self.segments:
                scale = images.shape[3] / width, images.shape[2] / height
                results.append(_instances(own, scale, (height, width), self.metadata.threshold))
            elif "logits" in own:
                results.append(_labels(own["logits"], (height, width), self.metadata.threshold))
            else:
                labels = own["labels"].astype(np.int32)
                results.append(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
        return results

    def compute_logits(self, images: npt.NDArray[np.float32], size: tuple[int, int]) -> list[npt.NDArray[np.float32]]:
        """Runs a segmentor that returns logits on prepared images.

        Args:
            images: (B, 3, h, w).
            size: The height and width of the logits, which are enlarged or reduced by linear interpolation.

        Returns:
            For each image (C, height, width).
        """
        (logits,) = self._run(images)
        return [np.stack(list(_resize_planes(one, size))) for one in logits]


def _open_onnx(path: Path, threads: int | None) -> tuple[Run, dict[str, str]]:
    providers = import_runtime("onnxruntime").get_available_providers()
    try:
        session = open_onnx(path, threads, providers)
    except Exception as error:
        raise UserError(f"{path} cannot be read by ONNX Runtime: {error}; export the model again.") from error
    return lambda images: session.run(None, {INPUT: images}), session.get_modelmeta().custom_metadata_map


def _open_openvino(path: Path, threads: int | None) -> tuple[Run, dict[str, str]]:
    import_runtime("openvino")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"{path} has its weights in {weights}, which does not exist; copy that file next to it.")
    try:
        model, compiled = open_openvino(path, threads)
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read by OpenVINO: {error}; export the model again.") from error
    names = [field.name for field in fields(Metadata)]
    texts = {
        name: model.get_rt_info([RT_INFO, name]).astype(str) for name in names if model.has_rt_info([RT_INFO, name])
    }

    def run(images: Array) -> Sequence[Array]:
        found = compiled.create_infer_request().infer({INPUT: images})
        return [found[index] for index in range(len(compiled.outputs))]

    return run, texts


_OPENERS = {".onnx": _open_onnx, ".xml": _open_openvino}
"""The functions that open a file, by the suffix."""


def _instances(
    outputs: dict[str, Array], scale: tuple[float, float], size: tuple[int, int], threshold: float
) -> Instances:
    """Brings the objects of one image to the size of the original image. ``scale`` is horizontal and vertical."""
    exists = outputs["labels"] >= 0
    boxes = outputs["boxes"][exists].astype(np.float32) / np.array([*scale, *scale], np.float32)
    scores, labels = outputs["scores"][exists].astype(np.float32), outputs["labels"][exists]
    masks = None
    if "masks" in outputs:
        masks = np.zeros((len(boxes), *size), bool)
        for mask, box, probabilities in zip(masks, boxes, outputs["masks"][exists]):
            paste_mask(mask, box, probabilities.astype(np.float32), threshold)
    return Instances(boxes, labels, scores, masks)


def paste_mask(
    mask: npt.NDArray[np.bool_], box: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32], threshold: float
) -> None:
    """Writes the mask of a box into an image, as MMDetection does.

    Args:
        mask: (H, W), without the object; it is changed in place.
        box: x1, y1, x2, y2 in pixels.
        probabilities: (h, w), a grid over the box.
        threshold: The probability from which a pixel belongs to the object.

    Example:
        >>> mask = np.zeros((4, 6), bool)
        >>> paste_mask(mask, np.float32([1, 1, 5, 3]), np.ones((2, 2), np.float32), threshold=0.5)
        >>> mask.sum()
        np.int64(8)
    """
    if not np.isfinite(box).all():
        return
    x1, y1, x2, y2 = box
    height, width = mask.shape
    left, top = max(0, int(np.floor(x1)) - 1), max(0, int(np.floor(y1)) - 1)
    right, bottom = min(width, int(np.ceil(x2)) + 1), min(height, int(np.ceil(y2)) + 1)
    if left >= right or top >= bottom:
        return
    by_row = _weights(top, bottom, y1, y2, probabilities.shape[0])  # (bottom - top, h)
    by_column = _weights(left, right, x1, x2, probabilities.shape[1])  # (right - left, w)
    mask[top:bottom, left:right] = by_row @ probabilities @ by_column.T >= threshold


def _weights(start: int, stop: int, low: float, high: float, count: int) -> npt.NDArray[np.float32]:
    """The weights of linear interpolation from ``count`` cells between ``low`` and ``high`` to pixels.

    Outside of the cells is zero.
    """
    pixels = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
    side = high - low
    # A box without a side gets its middle everywhere, as in MMDetection.
    share = (pixels - low) / side if side != 0 else np.full_like(pixels, 0.5)
    place = share * count - np.float32(0.5)
    distance = np.abs(place[:, None] - np.arange(count, dtype=np.float32))
    return np.clip(1 - distance, 0, None).astype(np.float32)


def _labels(logits: Array, size: tuple[int, int], threshold: float) -> npt.NDArray[np.integer]:
    """Resizes logits (C, h, w) to H x W, one class after the other, and takes the largest."""
    planes = _resize_planes(logits, size)
    largest = next(planes)
    if len(logits) == 1:
        return (1 / (1 + np.exp(-largest)) > threshold).astype(np.int64)
    labels = np.zeros(size, np.int64)
    for index, plane in enumerate(planes, start=1):
        is_larger = plane > largest
        labels[is_larger] = index
        largest = np.maximum(largest, plane)
    return labels


def _resize_planes(logits: Array, size: tuple[int, int]) -> Iterator[npt.NDArray[np.float32]]:
    """Resizes logits (C, h, w) to H x W, one class after the other."""
    for plane in logits:
        resized = cv2.resize(plane.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        yield np.asarray(resized, np.float32)
