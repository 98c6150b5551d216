"""The check of the data before a training or a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xcit_dense.errors import UserError


def check_data(
    config: Any, loaders: tuple[str, ...], limit: int | None, own: bool = False, draw_to: Path | None = None
) -> None:
    """Checks the data of a run and prints what is wrong with it.

    Args:
        config: A complete config.
        loaders: The data loaders of the run.
        limit: The largest number of images of each split to open. None opens all images.
        own: Whether the classes were read from the data.
        draw_to: The directory for drawings of what is wrong. None draws nothing.

    Raises:
        UserError: A training would fail or learn something wrong, or a test would fail or compare with nothing.
    """
    from xcit_dense.datasets.checks.coco import NO_OBJECTS
    from xcit_dense.mm.config.data_checks import NO_LABELS, check_data
    from xcit_dense.mm.inference.draw_faults import draw_faults

    reports = check_data(config, loaders, limit)
    print(*reports, sep="\n", flush=True)
    sheets = draw_faults(reports, draw_to) if draw_to else []
    if sheets:
        print(f"Each kind of fault is drawn in {draw_to}: {len(sheets)} image{'s' * (len(sheets) > 1)}", flush=True)
    is_training = "train_dataloader" in loaders
    for report in reports:
        if not is_training and (NO_OBJECTS in report.faults or NO_LABELS in report.faults):
            raise UserError(
                f"{report.source} has no ground truth of the config's classes to compare predictions with; give "
                "annotations, or write predictions with `xcit-dense predict`."
            )
    errors = sum(report.errors for report in reports)
    if errors:
        remedy = "for data with classes of its own write --classes auto, else " if is_training and not own else ""
        raise UserError(
            f"The data has {errors} kind{'s' * (errors > 1)} of error, listed above with their places; {remedy}fix "
            "them, or remove the annotations and images that have them."
        )
