"""Predictions for one image: what a detector or a segmentor has found, as NumPy arrays.

Models of PyTorch and exported models return these objects. This module imports neither torch nor an MM library.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from xcit_dense.errors import MissingLibraryError, UserError
from xcit_dense.media.images import write_image
from xcit_dense.structures import IGNORED, Colour, Instances, Pixels
from xcit_dense.visualization.draw import draw_instances, draw_label_map

_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Prediction(ABC):
    """What the predictions of detectors and of segmentors have in common.

    Attributes:
        image: (H, W, 3), RGB, uint8: the upright image that was predicted.
        classes: The names of all classes of the model.
        palette: A colour for each class. None means the colours of
            :func:`xcit_dense.visualization.draw.make_palette`.
        source: The path or the address of the image, or of the video that contains the image. None for an image in
            memory.
        frame: The number of the video's frame, from 0. None for an image.
    """

    image: Pixels
    classes: Sequence[str]
    palette: Sequence[Colour] | None = None
    source: str | None = None
    frame: int | None = None

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The names of the classes that were found."""

    @abstractmethod
    def plot(self) -> Pixels:
        """Draws the prediction over the image.

        Returns:
            (H, W, 3), RGB, uint8. The drawing of a small image is larger than the image.
        """

    @abstractmethod
    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Converts the prediction to COCO's result format.

        Args:
            image_id: The id of the image in COCO's file of images.

        Returns:
            One dictionary for each object or class.

        Raises:
            UserError: A score or a box is infinite or NaN.
            MissingLibraryError: pycocotools is not installed.
        """

    @abstractmethod
    def to_supervision(self) -> Any:
        """Converts the prediction to ``supervision.Detections``.

        Returns:
            The detections, with the names of the classes in ``data["class_name"]``.

        Raises:
            MissingLibraryError: supervision is not installed.
        """

    def save(self, path: str | Path) -> Path:
        """Writes the drawing of :meth:`plot` atomically.

        Args:
            path: The file, ``.jpg`` or ``.png``. Its directory is created.

        Returns:
            The path.

        Raises:
            UserError: The file cannot be written, or its suffix is another one.
        """
        path = Path(path)
        if path.suffix.lower() not in _SUFFIXES:
            raise UserError(f"A drawing cannot be written as {path.name!r}; end the name with .jpg or .png.")
        write_image(path, self.plot())
        return path

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        frame = "" if self.frame is None else f" frame {self.frame}"
        source = f"{self.source or 'image'}{frame}"
        counts = Counter(self.names)
        found = ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())
        return f"{type(self).__name__}({source}, {width} x {height}: {found or 'nothing'})"

    def _repr_png_(self) -> bytes:
        """The drawing as PNG: notebooks show it in the place of the text."""
        file = io.BytesIO()
        Image.fromarray(self.plot()).save(file, "PNG")
        return file.getvalue()


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Detection(Prediction):
    """The N objects that a detector has found in an image of H x W pixels, in the order of the model.

    Attributes:
        xyxy: (N, 4), float32: the corners x1, y1, x2, y2 of the boxes in pixels of the image.
        confidence: (N,), float32 in [0, 1]: the scores.
        class_id: (N,), integer: class indices from 0.
        mask: (N, H, W), bool. None for a model that finds boxes only.

    Example:
        >>> image = np.zeros((480, 640, 3), np.uint8)
        >>> boxes = np.array([[10, 20, 30, 60], [100, 100, 300, 200]], np.float32)
        >>> scores = np.array([0.75, 0.25], np.float32)
        >>> found = Detection(
        ...     xyxy=boxes, confidence=scores, class_id=np.array([1, 0]), image=image, classes=["cat", "dog"]
        ... )
        >>> found
        Detection(image, 640 x 480: dog, cat)
        >>> found.keep(0.5).names
        ['dog']
        >>> found.plot().shape
        (480, 640, 3)
        >>> found.to_coco()[0]
        {'image_id': 1, 'category_id': 2, 'bbox': [10.0, 20.0, 20.0, 40.0], 'score': 0.75}
    """

    xyxy: npt.NDArray[np.floating]
    confidence: npt.NDArray[np.floating]
    class_id: npt.NDArray[np.integer]
    mask: npt.NDArray[np.bool_] | None = None

    @classmethod
    def from_instances(cls, found: Instances, **common: Any) -> Detection:
        """Makes a prediction of objects with scores.

        Args:
            found: The objects.
            **common: The attributes of :class:`Prediction`.
        """
        assert found.scores is not None
        return cls(xyxy=found.boxes, confidence=found.scores, class_id=found.labels, mask=found.masks, **common)

    @property
    def names(self) -> list[str]:
        """The name of each object's class."""
        return [self.classes[index] for index in self.class_id.tolist()]

    @property
    def instances(self) -> Instances:
        """The objects in the form that the drawings and the COCO format of this package take."""
        return Instances(self.xyxy, self.class_id, self.confidence, self.mask)

    def keep(self, score_thr: float) -> Detection:
        """Selects the objects with a score of at least ``score_thr``.

        Args:
            score_thr: The lowest score to keep, in [0, 1].

        Returns:
            The selected objects, in the same order.
        """
        common = {field.name: getattr(self, field.name) for field in fields(Prediction)}
        return Detection.from_instances(self.instances.keep(score_thr), **common)

    def plot(self) -> Pixels:
        """Draws masks, boxes, names and scores over the image (:func:`xcit_dense.visualization.draw.draw_instances`).

        Returns:
            (H, W, 3), RGB, uint8. The drawing of a small image is larger than the image.
        """
        return draw_instances(self.image, self.instances, self.classes, self.palette)

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Converts the objects to COCO's result format.

        Args:
            image_id: The id of the image in COCO's file of images.

        Returns:
            One dictionary for each object, as :func:`xcit_dense.media.results.make_results` documents, with the
            ``image_id``.

        Raises:
            UserError: A score or a box is infinite or NaN.
            MissingLibraryError: pycocotools is not installed.
        """
        from xcit_dense.media.results import make_categories, make_results

        results = make_results(self.instances, make_categories(self.classes))
        return [{"image_id": image_id, **result} for result in results]

    def to_supervision(self) -> Any:
        """Converts the objects to ``supervision.Detections``.

        Returns:
            The detections, with the name of each object's class in ``data["class_name"]``.

        Raises:
            MissingLibraryError: supervision is not installed.
        """
        return _supervision().Detections(
            xyxy=np.asarray(self.xyxy, np.float32),
            confidence=np.asarray(self.confidence, np.float32),
            class_id=np.asarray(self.class_id, int),
            mask=self.mask,
            data={"class_name": np.array(self.names, dtype=str)},
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Segmentation(Prediction):
    """The class of each pixel of an image of H x W pixels.

    Attributes:
        labels: (H, W), integer: class indices from 0. The value 255 marks pixels without a class.

    Example:
        >>> labels = np.zeros((480, 640), np.uint8)
        >>> labels[:, 320:] = 1
        >>> found = Segmentation(labels=labels, image=np.zeros((480, 640, 3), np.uint8), classes=["road", "sky"])
        >>> found.names
        ['road', 'sky']
        >>> found.plot().shape[0]
        480
    """

    labels: npt.NDArray[np.integer]

    @property
    def names(self) -> list[str]:
        """The names of the classes in the image, in the order of their indices."""
        return [self.classes[index] for index in self._present()]

    def plot(self) -> Pixels:
        """Blends the classes over the image, with a legend (:func:`xcit_dense.visualization.draw.draw_label_map`).

        Returns:
            (H, W', 3), RGB, uint8. The legend makes the drawing wider than the image.
        """
        return draw_label_map(self.image, self.labels, self.classes, self.palette)

    def save_labels(self, path: str | Path) -> Path:
        """Writes the class indices as a PNG file with one channel, atomically. The file has 16 bits above 256 classes.

        Args:
            path: The file, ``.png``. Its directory is created.

        Returns:
            The path.

        Raises:
            UserError: The file cannot be written, or its suffix is another one.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise UserError(f"Class indices cannot be written as {path.name!r}; end the name with .png.")
        write_image(path, self.labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16))
        return path

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """Converts the classes to the result format of COCO's stuff task.

        Args:
            image_id: The id of the image in COCO's file of images.

        Returns:
            One dictionary for each class in the image: ``image_id``, ``category_id``, and ``segmentation``, the
            run-length code of the pixels of the class.

        Raises:
            MissingLibraryError: pycocotools is not installed.
        """
        from xcit_dense.media.results import encode_mask, make_categories

        categories = make_categories(self.classes)
        return [
            {
                "image_id": image_id,
                "category_id": categories[index]["id"],
                "segmentation": encode_mask(self.labels == index),
            }
            for index in self._present()
        ]

    def to_supervision(self) -> Any:
        """Converts the classes to ``supervision.Detections``: one mask for each class in the image.

        Returns:
            The detections, with the name of each mask's class in ``data["class_name"]``.

        Raises:
            MissingLibraryError: supervision is not installed.
        """
        supervision = _supervision()
        present = self._present()
        if not present:
            return supervision.Detections.empty()
        masks = np.stack([self.labels == index for index in present])
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            class_id=np.array(present),
            mask=masks,
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def _present(self) -> list[int]:
        """The indices of the classes in the image."""
        indices: list[int] = np.unique(self.labels).tolist()
        return [index for index in indices if 0 <= index < len(self.classes) and index != IGNORED]


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise MissingLibraryError(
            "Detections of supervision need this library; write pip install 'xcit-dense[supervision]'."
        ) from error
    return supervision
