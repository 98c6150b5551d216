"""Draws what a check of data found, on the images where it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xcit_dense.datasets.checks.report import Fault, Mark, Report
from xcit_dense.errors import MissingLibraryError
from xcit_dense.media.images import ImageError, write_image
from xcit_dense.structures import Pixels
from xcit_dense.visualization.bands import open_pixels
from xcit_dense.visualization.contact_sheet import Tile, make_contact_sheet
from xcit_dense.visualization.marks import draw_mark, draw_placeholder

_LONGEST = 60  # characters of a description in a file name
_NAMES = "[0-9][0-9]_*.jpg"  # the names of the sheets, by which sheets of an earlier check are found


def draw_faults(reports: Sequence[Report], directory: Path) -> list[Path]:
    """Draws a sheet of images for each kind of fault. The sheets of an earlier check are removed.

    Args:
        reports: The reports of a check.
        directory: The directory of the sheets. Faults without a drawable place make no directory.

    Returns:
        The sheets, errors first.

    Raises:
        UserError: A sheet cannot be written.

    Example:
        >>> import numpy as np
        >>> write_image(Path("a.png"), np.zeros((40, 60, 3), np.uint8))
        >>> report = Report(Path("train.json"))
        >>> mark = Mark(Path("a.png"), box=(70, 5, 80, 9))
        >>> report.error("boxes outside their image", "annotation 7 in a.png: [70, 5, 10, 4]", mark)
        >>> [path.as_posix() for path in draw_faults([report], Path("check"))]
        ['check/01_error_boxes_outside_their_image.jpg']
    """
    for outdated in directory.glob(_NAMES):
        outdated.unlink()
    faults = [(report, what, fault) for report in reports for what, fault in report.faults.items() if fault.marks]
    faults.sort(key=lambda item: not item[2].is_error)
    sheets = []
    for number, (report, what, fault) in enumerate(faults, start=1):
        kind = "error" if fault.is_error else "warning"
        words = re.sub(r"\W+", "_", re.split("[,(]", what)[0]).strip("_")[:_LONGEST].rstrip("_")
        tiles = [Tile(_draw(mark), where) for where, mark in fault.marks.items()]
        path = directory / f"{number:02d}_{kind}_{words}.jpg"
        write_image(path, make_contact_sheet(tiles, _title(report, what, fault)))
        sheets.append(path)
    return sheets


def _title(report: Report, what: str, fault: Fault) -> str:
    kind = "error" if fault.is_error else "warning"
    shown = len(fault.marks)
    drawn = f" ({shown} shown)" if shown < fault.count else ""
    return f"{report.source.parent.name}/{report.source.name}: {kind}: {what}: {fault.count:,}{drawn}"


def _draw(mark: Mark) -> Pixels:
    if not mark.image.is_file():
        return draw_placeholder("There is no such file.")
    try:
        image = open_pixels(mark.image)
    except ImageError:
        return draw_placeholder("The file is not a readable image.")
    except MissingLibraryError as error:
        return draw_placeholder(str(error))
    return draw_mark(image, mark.box, mark.polygons)
