"""Each model family of MMDetection trains and predicts with an XCiT in the place of its backbone."""

import pytest

from tests.matrix.cases import cases, check_family
from tests.matrix.detection import make_batch
from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import read_record, read_tried

QUICK = ("detr", "fcos", "retinanet", "yolof", "yolox")
"""Families of different kinds whose steps take little time."""


@pytest.mark.parametrize("family", cases("mmdet", QUICK))
def test_a_family_trains_and_predicts_or_fails_for_its_reason(family):
    check_family("mmdet", family, make_batch)


def test_at_least_54_of_the_58_tried_families_work():
    tried = read_tried()
    assert len(tried) == 58
    assert set(tried) <= set(read_record("mmdet"))
    assert len(set(tried) - set(EXCEPTIONS["mmdet"])) >= 54
