"""Predictions for images and videos, as a stream from files to predictions. Any model that is an :class:`Engine` fits.

Each step is a generator, so that only one batch is in memory. This module imports neither torch nor an MM library.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from xcit_dense.errors import UserError
from xcit_dense.media.inputs import Medium
from xcit_dense.predictions import Prediction
from xcit_dense.structures import Colour, Pixels


@dataclass(frozen=True)
class Input:
    """An image that is ready for a model.

    Attributes:
        image: (H, W, 3), RGB, uint8: the image as drawings show it.
        data: The model's input.
        size: Inputs with equal sizes fit into one batch.
    """

    image: Pixels
    data: Any
    size: Hashable


class Named(Protocol):
    """What each model that only predicts states about its classes."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes."""

    @property
    def palette(self) -> Sequence[Colour]:
        """The colours of the classes."""

    @property
    def segments(self) -> bool:
        """Whether the model is a segmentor."""


class Engine(Named, Protocol):
    """A model that only predicts, with its preprocessing and its classes."""

    def read(self, path: Path) -> Input:
        """Reads an image file and prepares it.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be read, or the image does not fit the model.
            UserError: As for OSError.
        """

    def accept(self, image: Any, path: Path | None = None) -> Input:
        """Prepares an image in memory.

        Args:
            image: As for :func:`xcit_dense.media.arrays.to_rgb`. A model of other bands takes what
                :func:`xcit_dense.media.arrays.to_bands` takes.
            path: The video that contains the image. None for an image of the caller.

        Raises:
            OSError: The image does not fit the model.
            UserError: As for OSError.
        """

    def infer(self, inputs: Sequence[Input]) -> Sequence[Prediction]:
        """Runs the model.

        Args:
            inputs: A batch. The inputs have equal sizes.

        Returns:
            The prediction for each input.
        """


@dataclass(frozen=True)
class Frame:
    """An image, or a frame of a video, on its way through the model.

    Attributes:
        input: The image, ready for the model.
        source: The path or the address. None for an image of the caller.
        number: The number of a video's frame, from 0. None for an image.
    """

    input: Input
    source: str | None
    number: int | None


@dataclass(frozen=True)
class FileFrame(Frame):
    """An image of a file, or a frame of a video's file.

    Attributes:
        medium: The file.
    """

    medium: Medium


AnyFrame = TypeVar("AnyFrame", bound=Frame)


def read(engine: Engine, media: Iterable[Medium], fail: Callable[[Medium, Exception], None]) -> Iterator[FileFrame]:
    """Reads images and frames of videos, and prepares them for the model.

    Args:
        engine: The model.
        media: The images and videos.
        fail: Called for each file that cannot be read, and for a video that ends too early.

    Yields:
        The images, one at a time.
    """
    for medium in media:
        source = str(medium.path)
        try:
            if medium.is_video:
                from xcit_dense.media.video import read_frames  # PyAV is needed for videos only

                for number, frame in enumerate(read_frames(medium.path)):
                    yield FileFrame(engine.accept(frame[..., ::-1], medium.path), source, number, medium)
            else:
                yield FileFrame(engine.read(medium.path), source, None, medium)
        except Exception as error:
            fail(medium, error)


def predict(
    engine: Engine, frames: Iterable[AnyFrame], batch: int, fail: Callable[[AnyFrame, Exception], None]
) -> Iterator[tuple[AnyFrame, Prediction]]:
    """Runs the model on images.

    Args:
        engine: The model.
        frames: From :func:`read`, or others.
        batch: The largest number of images in a batch. A batch contains successive images of one size, so that no image
            is padded and the predictions equal the predictions for single images.
        fail: Called for each image that fails in a batch of one, for example because the memory is too small.

    Yields:
        Each image with its prediction. If ``frames`` raises an error, the images before the error come first.
    """
    waiting: list[AnyFrame] = []
    images = iter(frames)
    error = None
    while True:
        try:
            frame = next(images, None)
        except Exception as raised:
            frame, error = None, raised
        is_full = len(waiting) == batch
        if waiting and (frame is None or is_full or waiting[0].input.size != frame.input.size):
            yield from _infer(engine, waiting, fail)
            waiting = []
        if frame is None:
            break
        waiting.append(frame)
    if error is not None:
        raise error


def describe(error: Exception) -> str:
    """Describes in one line why an image failed.

    Args:
        error: The error.

    Example:
        >>> describe(OSError("not a video that can be read")), describe(KeyError("x"))
        ('not a video that can be read', "KeyError: 'x'")
    """
    if type(error).__name__ == "OutOfMemoryError":  # of torch.cuda
        return "the GPU's memory is too small for it"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    # The texts of other errors, for example of KeyError, are not sentences.
    return text if text and isinstance(error, OSError | UserError) else f"{type(error).__name__}: {text}"


def _infer(
    engine: Engine, frames: list[AnyFrame], fail: Callable[[AnyFrame, Exception], None]
) -> Iterator[tuple[AnyFrame, Prediction]]:
    try:
        predictions = engine.infer([frame.input for frame in frames])
    except Exception as error:
        predictions = None
        if len(frames) == 1:
            fail(frames[0], error)
    # Outside the except block, whose error holds the tensors of the model.
    if predictions is not None:
        for frame, found in zip(frames, predictions):
            yield frame, replace(found, source=frame.source, frame=frame.number)
    elif len(frames) > 1:
        for frame in frames:
            yield from _infer(engine, [frame], fail)
