"""Finds faults of a data set, and their places, before training meets the faults.

A fault is an error if training would fail or learn something wrong. A fault is a warning if training works, but uses
less of the data than expected. All annotations are read, and every image file must exist. Of a large data set only a
sample of images and label maps is opened, because opening files takes time: images for their size, label maps for their
values.
"""

from xcit_dense.datasets.checks.coco import check_coco
from xcit_dense.datasets.checks.label_maps import check_labels, check_pairs
from xcit_dense.datasets.checks.report import Report
from xcit_dense.datasets.checks.sample import SAMPLE

__all__ = ["SAMPLE", "Report", "check_coco", "check_labels", "check_pairs"]
