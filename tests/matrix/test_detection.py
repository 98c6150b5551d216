"""Each model family of MMDetection trains and predicts with an XCiT in the place of its backbone."""

import importlib

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
from tests.matrix.cases import cases, check_family
from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import read_record, read_tried

QUICK = ("detr", "fcos", "retinanet", "yolof", "yolox")
"""Families of different kinds whose steps take little time."""


@pytest.mark.parametrize("family", cases("mmdet", QUICK))
def test_a_family_trains_and_predicts_or_fails_for_its_reason(family):
    make_batch = importlib.import_module("tests.matrix.detection").make_batch
    check_family("mmdet", family, make_batch)


def test_at_least_54_of_the_58_tried_families_work():
    tried = read_tried()
    assert len(tried) == 58
    assert set(tried) <= set(read_record("mmdet"))
    assert len(set(tried) - set(EXCEPTIONS["mmdet"])) >= 54
