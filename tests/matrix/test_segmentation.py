"""Each model family of MMSegmentation trains and predicts with an XCiT in the place of its backbone."""

import importlib

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
from tests.matrix.cases import cases, check_family
from tests.matrix.exceptions import EXCEPTIONS
from tests.matrix.families import installed_families, load_family
from xcit_dense.mm.config.walk import dicts_in

QUICK = ("deeplabv3plus", "segformer", "sem_fpn")
"""Families of different kinds whose steps take little time: a dilated backbone, the pyramid, and a neck."""


@pytest.mark.parametrize("family", cases("mmseg", QUICK))
def test_a_family_trains_and_predicts_or_fails_for_its_reason(family):
    make_batch = importlib.import_module("tests.matrix.segmentation").make_batch
    check_family("mmseg", family, make_batch)


@pytest.mark.slow
def test_every_decode_head_of_mmsegmentation_is_in_a_family():
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    heads = importlib.import_module("mmseg.models.decode_heads").__all__
    used = {
        part.get("type")
        for family in installed_families("mmseg")
        for part in dicts_in(load_family("mmseg", family).model)
    }
    assert set(heads) <= used


def test_every_decode_head_except_the_head_of_clip_works():
    assert set(EXCEPTIONS["mmseg"]) == {"san"}
