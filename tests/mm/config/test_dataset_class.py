"""Types that configs name in several ways."""

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, TRANSFORMS

import xcit_dense.mm  # noqa: F401
from xcit_dense.mm.config.dataset_class import classes_of, is_a, reads_coco, type_of

DETECTION = Config({"default_scope": "mmdet"})
SEGMENTATION = Config({"default_scope": "mmseg"})


@DATASETS.register_module()
class CocoOfOneFarm(CocoDataset):
    """A data set of a user, with its own classes."""

    METAINFO = {"classes": ("cow", "hen")}  # noqa: RUF012


@pytest.mark.parametrize(
    "kind", ["CocoDataset", "mmdet.CocoDataset", "mmdet.datasets.CocoDataset", CocoDataset, "CocoOfOneFarm"]
)
def test_every_way_to_name_a_class_of_coco_files_is_the_same(kind):
    assert issubclass(type_of(DETECTION, {"type": kind}), CocoDataset)
    assert is_a(DETECTION, {"type": kind}, "CocoDataset")
    assert reads_coco(DETECTION, {"type": kind})


@pytest.mark.parametrize("kind", ["CocoMetric", "mmdet.CocoMetric", CocoMetric])
def test_every_way_to_name_a_metric_is_the_same(kind):
    assert is_a(DETECTION, {"type": kind}, "CocoMetric", METRICS)
    assert not is_a(DETECTION, {"type": kind}, "CocoDataset")


@pytest.mark.parametrize(
    ("scope", "node"),
    [("mmseg", {"type": "CocoDataset", "_scope_": "mmdet"}), ("mmseg", {"type": "mmdet.CocoDataset"})],
    ids=["scope", "name"],
)
def test_a_part_of_another_library_is_found(scope, node):
    assert is_a(Config({"default_scope": scope}), node, "CocoDataset")


def test_the_same_name_in_two_libraries_is_two_classes():
    # MMSegmentation's data set of this name reads label maps.
    assert is_a(DETECTION, {"type": "CityscapesDataset"}, "CocoDataset")
    assert not is_a(SEGMENTATION, {"type": "CityscapesDataset"}, "CocoDataset")


def test_a_subclass_of_a_transform_is_that_transform():
    for kind in ("LoadAnnotations", "mmseg.LoadAnnotations", "mmcv.transforms.LoadAnnotations"):
        assert is_a(SEGMENTATION, {"type": kind}, "LoadAnnotations", TRANSFORMS)
    assert not is_a(SEGMENTATION, {"type": "PackSegInputs"}, "LoadAnnotations", TRANSFORMS)


@pytest.mark.parametrize("node", [{}, {"type": "NoSuchThing"}, {"type": "nolibrary.CocoDataset"}, {"type": 3}])
def test_a_part_of_an_unknown_type_is_nothing(node):
    assert not is_a(DETECTION, node, "CocoDataset")
    assert not reads_coco(DETECTION, node)


@pytest.mark.parametrize("kind", ["CocoPanopticDataset", "LVISV1Dataset", "Objects365V1Dataset", "VOCDataset"])
def test_data_sets_that_read_other_files_or_number_classes_otherwise_do_not_read_coco(kind):
    assert not reads_coco(DETECTION, {"type": kind})


def test_classes_come_from_the_class_that_the_type_names():
    assert classes_of(DETECTION, {"type": "CocoOfOneFarm"}) == ["cow", "hen"]
    assert classes_of(DETECTION, {"type": "mmdet.CocoDataset"})[0] == "person"
    assert classes_of(DETECTION, {"type": CocoDataset, "metainfo": {"classes": ("a", "b")}}) == ["a", "b"]
