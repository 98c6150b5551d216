"""Writes what was found in images of any size: label maps, objects, class scores and previews."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xcit_dense.inference.windows.blend import empty_label
from xcit_dense.inference.windows.engine import WindowEngine
from xcit_dense.inference.windows.journal import Record
from xcit_dense.inference.windows.merge import Merger
from xcit_dense.inference.windows.objects import Found, encode_in_image, from_json
from xcit_dense.inference.windows.plan import Plan
from xcit_dense.media.inputs import Medium
from xcit_dense.media.results import make_categories, write_results
from xcit_dense.rasters.canvas import Canvas
from xcit_dense.rasters.labels import write_label_map, write_scores
from xcit_dense.rasters.objects import MapObject, write_geojson
from xcit_dense.rasters.preview import preview_labels, preview_objects
from xcit_dense.rasters.source import RasterError, Source

NOTE = "note.txt"
"""The file among the parts of an image that has a sentence for the user."""

_COCO_PIXELS = 2**32  # COCO's run-length code counts pixels in 32 bits


class Outputs:
    """The output directory of a run.

    Args:
        engine: The model with the names and the colours of the classes.
        out: The directory.
        preview: Write a small drawing of each image.
    """

    def __init__(self, engine: WindowEngine, out: Path, preview: bool) -> None:
        self._engine = engine
        self._out = out
        self._preview = preview

    def write_labels(
        self, medium: Medium, source: Source, labels: Canvas, scores: Canvas | None, directory: Path
    ) -> None:
        """Writes the label map of an image.

        Args:
            medium: The image.
            source: The opened image.
            labels: The label map.
            scores: The class scores, or None.
            directory: The directory for the parts of the image.

        Raises:
            UserError: A file cannot be written.
        """
        classes, palette = self._engine.classes, self._engine.palette
        place = source.georeference
        path = self._path("labels", medium, ".tif")
        empty = empty_label(len(classes))
        write_label_map(path, labels.array, classes=classes, palette=palette, georeference=place, nodata=empty)
        if scores is not None:
            write_scores(self._path("scores", medium, ".tif"), scores.array, classes=classes, georeference=place)
        if self._preview:
            path = self._path("previews", medium, ".jpg")
            with _noting(medium, directory):
                preview_labels(path, source, labels.array, classes=classes, palette=palette, bands=self._engine.drawn)

    def write_objects(
        self, medium: Medium, source: Source, plan: Plan, records: Iterable[Record], directory: Path
    ) -> None:
        """Merges the objects of an image and writes them.

        Args:
            medium: The image.
            source: The opened image.
            plan: The windows.
            records: The record of each row of windows, in order.
            directory: The directory for the parts of the image.

        Raises:
            UserError: A file cannot be written.
        """
        classes, palette = self._engine.classes, self._engine.palette
        found = list(merge_rows(plan, records))
        shown = [_on_map(one) for one in found]
        write_geojson(
            self._path("objects", medium, ".geojson"), shown, classes=classes, georeference=source.georeference
        )
        if self._preview:
            path = self._path("previews", medium, ".jpg")
            with _noting(medium, directory):
                preview_objects(path, source, shown, classes=classes, palette=palette, bands=self._engine.drawn)
        results = [self._result(one, plan) for one in found]
        image = {"file_name": medium.name, "height": plan.height, "width": plan.width}
        (directory / "coco.jsonl").write_text(json.dumps({"image": image, "results": results}) + "\n")

    def join(self, directories: Iterable[Path]) -> int:
        """Writes COCO's two files of all images.

        Args:
            directories: The directories for the parts of the images.

        Returns:
            The number of objects.

        Raises:
            UserError: A file cannot be written.
        """
        parts = [directory / "coco.jsonl" for directory in directories]
        return write_results(self._out, parts, make_categories(self._engine.classes))

    def _path(self, kind: str, medium: Medium, suffix: str) -> Path:
        path = self._out / kind / f"{medium.stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _result(self, found: Found, plan: Plan) -> dict[str, Any]:
        """COCO's entry of an object."""
        x1, y1, x2, y2 = found.box
        category = make_categories(self._engine.classes)[found.label]["id"]
        result = {"category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": found.score}
        if found.mask is not None and plan.height * plan.width < _COCO_PIXELS:
            result["segmentation"] = encode_in_image(found.mask, plan.height, plan.width)
        return result


@contextmanager
def _noting(medium: Medium, directory: Path) -> Iterator[None]:
    """Notes that an image has no preview, because a part of its file is not readable. The windows there failed too."""
    try:
        yield
    except RasterError as error:
        (directory / NOTE).write_text(f"{medium.name} has no preview: {error}")


def _on_map(found: Found) -> MapObject:
    """The object as the writers of GeoJSON and of drawings take it."""
    if found.mask is None:
        return MapObject(found.box, found.label, found.score)
    return MapObject(found.box, found.label, found.score, found.mask.pixels, (found.mask.row, found.mask.column))


def merge_rows(plan: Plan, records: Iterable[Record]) -> Iterator[Found]:
    """Merges the objects of all windows of an image.

    Args:
        plan: The windows.
        records: The record of each row of windows, in order.

    Yields:
        The objects of the image.
    """
    merger = Merger(plan.height, plan.width)
    for record in records:
        _, next_row = plan.final_rows(record["row"])
        yield from merger.add_row(map(from_json, record["objects"]), next_row)
