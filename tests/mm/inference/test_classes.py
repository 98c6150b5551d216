"""Names and colours of classes come from the checkpoint, the config or the data set."""

import sys

import pytest

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from tests.helpers.models import raises_user_error
from xcit_dense.mm.inference.classes import read_classes

OTHER = {"metainfo": {"classes": ("c",)}}


def test_classes_are_the_checkpoints_else_the_configs_else_the_data_sets():
    own = {"CLASSES": ("a", "b"), "PALETTE": [[1, 2, 3], [4, 5, 6]]}
    assert read_classes(own, OTHER, "mmseg") == (["a", "b"], [(1, 2, 3), (4, 5, 6)])
    assert read_classes({}, OTHER, "mmseg")[0] == ["c"]
    assert read_classes({}, {"type": "CocoDataset"}, "mmdet")[0][0] == "person"
    assert len(read_classes({"classes": "ab"}, {}, "mmdet")[1]) == 1


def test_a_source_with_too_few_names_is_skipped():
    assert read_classes({"classes": ("a",)}, {"metainfo": {"classes": ("b", "c")}}, "mmseg", 2)[0] == ["b", "c"]


def test_classes_without_names_are_refused():
    with raises_user_error("names the classes", "metainfo"):
        read_classes({}, {"type": "BaseSegDataset"}, "mmseg")
    with raises_user_error("more than 1 of the model's 3 classes", "metainfo"):
        read_classes({}, {"type": "CocoDataset", **OTHER}, "mmdet", 3)


def test_browsing_works_without_the_modules_of_predicting(monkeypatch):
    """For example without pycocotools, which segmentation does not use."""
    monkeypatch.setitem(sys.modules, "xcit_dense.media.results", None)
    for name in ("browse", "predict"):
        monkeypatch.delitem(sys.modules, f"xcit_dense.mm.{name}", raising=False)
    import xcit_dense.mm.inference.browse  # noqa: F401
