"""The object that predicts: one interface for paths, addresses, images in memory, lists, directories and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xcit_dense.errors import UserError
from xcit_dense.inference.stream import Engine, Frame, describe, predict, read
from xcit_dense.media.arrays import is_image
from xcit_dense.media.fetch import fetched, is_address
from xcit_dense.media.images import ImageError
from xcit_dense.media.inputs import Medium, find_media
from xcit_dense.predictions import Detection, Prediction
from xcit_dense.structures import Colour

if TYPE_CHECKING:
    from xcit_dense.inference.write import Summary

OnError = Callable[[str, Exception], None]
"""A function that is called with the name of an image that fails, and the error."""


class Model:
    """A detector or segmentor that only predicts. :func:`xcit_dense.load` makes this object.

    Colours are RGB everywhere: in the arrays that the model takes, and in the drawings that it returns. OpenCV reads
    images as BGR: convert its images with ``image[..., ::-1]``, because the order of the channels cannot be checked.

    Several threads may call the methods of one object at the same time.

    Args:
        engine: What computes: a deployed model of the MM libraries, or an exported model.

    Attributes:
        engine: What computes.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of their indices."""
        return self.engine.classes

    @property
    def palette(self) -> Sequence[Colour]:
        """The colour of each class in drawings."""
        return self.engine.palette

    @property
    def segments(self) -> bool:
        """Whether the model is a segmentor. Otherwise it is a detector."""
        return self.engine.segments

    def predict(self, source: Any, *, score_thr: float = 0.3, batch: int = 1, on_error: OnError | None = None) -> Any:
        """Predicts one image, or many.

        Args:
            source: One image:

                - the path of an image file;
                - the http or https address of an image file of at most 50 MB;
                - an image of Pillow, an array (H, W, 3) or a tensor (3, H, W), all RGB
                  (:func:`xcit_dense.media.arrays.to_rgb`). A model of other bands takes (H, W, N) or (N, H, W).

                Or many images:

                - a directory, which is searched recursively, or a pattern such as ``'photos/*.jpg'``;
                - the path of a video;
                - a list or another iterable of any of these, for example a generator of a camera's images.
            score_thr: The lowest score of the objects to return, in [0, 1]. A segmentor ignores it.
            batch: The largest number of images of one size that the model predicts at once. The predictions stay the
                same.
            on_error: Called with the name and the error of each image of many that fails. The other images are still
                predicted. By default the first failure raises its error.

        Returns:
            For one image a :class:`xcit_dense.predictions.Detection` or a
            :class:`xcit_dense.predictions.Segmentation`. For many images, a list of one included, a generator of them
            in the order of the images. The generator holds one batch in memory.

        Raises:
            UserError: The source is not an image, cannot be found or cannot be read; ``score_thr`` or ``batch`` are
                out of range.

        Example:
            Every model works alike, so this one finds the same object in each image:

            >>> import numpy as np
            >>> from xcit_dense.inference.stream import Input
            >>> class Finder:
            ...     classes, palette, segments = ["cat"], [(255, 0, 0)], False
            ...     def accept(self, image, path=None):
            ...         return Input(image, None, image.shape)
            ...     def infer(self, inputs):
            ...         boxes, scores = np.array([[10, 10, 40, 30]], np.float32), np.array([0.9], np.float32)
            ...         objects = {"xyxy": boxes, "confidence": scores, "class_id": np.array([0])}
            ...         return [Detection(image=one.image, classes=self.classes, **objects) for one in inputs]
            >>> model = Model(Finder())
            >>> found = model.predict(np.zeros((60, 80, 3), np.uint8), score_thr=0.5)
            >>> found
            Detection(image, 80 x 60: cat)
            >>> [found.names for found in model.predict([found.image, found.image], batch=2)]
            [['cat'], ['cat']]
        """
        if not 0 <= score_thr <= 1:
            raise UserError(f"score_thr={score_thr} is not a score; write a number from 0 to 1.")
        if batch < 1:
            raise UserError(f"batch={batch} is not possible; write 1 or more.")
        if _is_one(source):
            (found,) = self._stream([source], score_thr, 1, None)
            return found
        sources = source
        if isinstance(source, str | Path):
            sources = find_media([str(Path(source).expanduser())])
        elif not isinstance(source, Iterable):
            raise UserError(
                f"{type(source).__name__} is not an image; give a path, an address, an image of Pillow, an RGB array, "
                "a tensor, or a list of them."
            )
        return self._stream(sources, score_thr, batch, on_error)

    def predict_files(
        self, inputs: Sequence[str | Path | Medium], out: str | Path, *, batch: int = 1, score_thr: float | None = 0.3
    ) -> Summary | None:
        """Predicts files and writes the results, as the command ``xcit-dense predict`` does.

        A failure of one image does not end the run. Each of several processes predicts a part of the files.

        Args:
            inputs: Images, videos, directories and patterns.
            out: The output directory. It must not contain results.
            batch: As for :meth:`predict`.
            score_thr: The lowest score of an object that is drawn. None draws nothing. The JSON files have all objects.

        Returns:
            The number of images and objects, and the failures. None on ranks other than 0.

        Raises:
            UserError: An input does not exist, or a result cannot be written.
        """
        from xcit_dense.inference.write import reserve, run

        media: list[Medium] = []
        for one in inputs:
            media += [one] if isinstance(one, Medium) else []
        names = [str(one) for one in inputs if not isinstance(one, Medium)]
        media += find_media(names) if names else []
        reserve(Path(out))
        return run(self.engine, media, Path(out), batch=batch, score_thr=score_thr)

    def _stream(
        self, sources: Iterable[Any], score_thr: float, batch: int, on_error: OnError | None
    ) -> Iterator[Prediction]:
        def fail(frame: Frame, error: Exception) -> None:
            _report(frame.source, error, on_error)

        for _, found in predict(self.engine, self._frames(sources, on_error), batch, fail):
            yield found.keep(score_thr) if isinstance(found, Detection) else found

    def _frames(self, sources: Iterable[Any], on_error: OnError | None) -> Iterator[Frame]:
        for source in sources:
            try:
                frames = self._open(source, on_error)
            except Exception as error:
                _report(None if is_image(source) else str(source), error, on_error)
                continue
            yield from frames

    def _open(self, source: Any, on_error: OnError | None) -> Iterable[Frame]:
        """Opens one element of a list: an image, or a file or directory with images."""
        if isinstance(source, str | Path):
            if is_address(str(source)):
                with fetched(str(source)) as path:
                    return [Frame(self.engine.read(path), str(source), None)]
            source = find_media([str(Path(source).expanduser())])
        elif isinstance(source, Medium):
            source = [source]
        else:
            return [Frame(self.engine.accept(source), None, None)]
        return read(self.engine, source, lambda medium, error: _report(str(medium.path), error, on_error))


def open_exported(path: str | Path) -> Model:
    """Opens an exported model.

    Args:
        path: The file that ``xcit-dense export`` has written.

    Raises:
        UserError: The file cannot be read.
        MissingLibraryError: The library that runs the file is not installed.
    """
    from xcit_dense.inference.exported import ExportedModel

    return Model(ExportedModel(path))


def _is_one(source: Any) -> bool:
    """Whether a source is one image. A path that does not exist counts as many: the search for it raises the error."""
    if isinstance(source, str | Path):
        if is_address(str(source)):
            return True
        path = Path(source).expanduser()
        return path.is_file() and not Medium(path, path.name, path.stem).is_video
    return is_image(source)


def _report(source: str | None, error: Exception, on_error: OnError | None) -> None:
    """Passes an error on, or raises the error with the name of its image."""
    if on_error is not None:
        on_error(source or "image in memory", error)
    elif source is not None and isinstance(error, OSError | UserError) and source not in str(error):
        raise ImageError(f"{source}: {describe(error)}") from error
    else:
        raise error
