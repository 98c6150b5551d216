"""Label maps of segments in COCO's panoptic format, and the panoptic quality of predictions.

A segment is an object or a region of stuff. A label map stores the number of a segment as an RGB colour. The names are
the names of COCO's panopticapi, which PyPI does not have and which MMDetection needs
(:mod:`xcit_dense.mm.patches.panopticapi`).

Source: Kirillov et al. 2019, "Panoptic Segmentation", section 4; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

VOID = 0
"""The number of pixels without a segment."""
OFFSET = 256**3
"""A number above that of every segment."""


def rgb2id(color: npt.ArrayLike) -> Any:
    """Converts colours to numbers of segments: R + 256 G + 256^2 B.

    Args:
        color: (..., 3), 0 to 255.

    Returns:
        (...), int32; an integer for a single colour.

    Example:
        >>> from xcit_dense.datasets.panoptic import rgb2id
        >>> rgb2id([[1, 0, 0], [0, 1, 0]]).tolist(), rgb2id((2, 0, 1))
        ([1, 256], 65538)
    """
    ids = np.asarray(color, dtype=np.int32) @ np.array([1, 256, 256**2], dtype=np.int32)
    return ids if ids.ndim else int(ids)


def id2rgb(id_map: npt.ArrayLike) -> Any:
    """Converts numbers of segments to colours, as :func:`rgb2id` reads them.

    Args:
        id_map: (...), from 0 to below :data:`OFFSET`.

    Returns:
        (..., 3), uint8; a list of three integers for a single number.

    Example:
        >>> from xcit_dense.datasets.panoptic import id2rgb
        >>> id2rgb(65538)
        [2, 0, 1]
    """
    ids = np.asarray(id_map, dtype=np.int64)
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)
    return colours if ids.ndim else colours.tolist()


@dataclass
class PQStatCat:
    """What panoptic quality counts for one class.

    Attributes:
        iou: The sum of the IoUs of the matched segments.
        tp: The number of matched segments: the IoU is above 0.5.
        fp: The number of predicted segments without a match.
        fn: The number of segments of the ground truth without a match.
    """

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __iadd__(self, other: PQStatCat) -> PQStatCat:
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        return self

    def quality(self) -> dict[str, float]:
        """Returns the panoptic, the segmentation and the recognition quality, PQ = SQ * RQ, each in [0, 1]."""
        segments = self.tp + self.fp / 2 + self.fn / 2
        return {
            "pq": self.iou / segments if segments else 0.0,
            "sq": self.iou / self.tp if self.tp else 0.0,
            "rq": self.tp / segments if segments else 0.0,
        }


@dataclass
class PQStat:
    """What panoptic quality counts for all classes, by the number of the class.

    Example:
        >>> from xcit_dense.datasets.panoptic import PQStat
        >>> counts = PQStat()
        >>> counts[1].tp, counts[1].iou, counts[1].fn = 3, 2.4, 2
        >>> mean, classes = counts.pq_average({1: {"isthing": 1}, 2: {"isthing": 0}}, isthing=None)
        >>> {name: round(value, 3) for name, value in mean.items()}
        {'pq': 0.6, 'sq': 0.8, 'rq': 0.75, 'n': 1}
    """

    pq_per_cat: defaultdict[int, PQStatCat] = field(default_factory=lambda: defaultdict(PQStatCat))

    def __getitem__(self, category: int) -> PQStatCat:
        return self.pq_per_cat[category]

    def __iadd__(self, other: PQStat) -> PQStat:
        for category, counts in other.pq_per_cat.items():
            self.pq_per_cat[category] += counts
        return self

    def pq_average(
        self, categories: Mapping[int, Mapping[str, Any]], isthing: bool | None
    ) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
        """Averages over the classes that occur in the ground truth or in the predictions.

        Args:
            categories: The classes by their number, each with ``isthing``: 1 for objects, 0 for stuff.
            isthing: True for the classes of objects, False for stuff, None for all.

        Returns:
            ``pq``, ``sq``, ``rq`` and the number ``n`` of averaged classes; then ``pq``, ``sq`` and ``rq`` of each
            class. The averages over no class are NaN.
        """
        classes = {}
        averaged = []
        for number, category in categories.items():
            if isthing is not None and bool(category["isthing"]) != isthing:
                continue
            counts = self[number]
            classes[number] = counts.quality()
            if counts.tp + counts.fp + counts.fn:
                averaged.append(classes[number])
        mean: dict[str, float] = {}
        for name in ("pq", "sq", "rq"):
            mean[name] = sum(each[name] for each in averaged) / len(averaged) if averaged else math.nan
        mean["n"] = len(averaged)
        return mean, classes
