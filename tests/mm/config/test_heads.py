"""The number of classes of heads and data."""

from copy import deepcopy
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed")

from mmengine.config import Config

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error
from xcit_dense.mm.config.heads import check_heads
from xcit_dense.mm.config.load import load_config

CONFIGS = Path(__file__).parents[3] / "configs"
MASK_RCNN = CONFIGS / "detection/mask_rcnn_xcit_n12_p8_shapes.py"
UPERNET = CONFIGS / "segmentation/upernet_xcit_n12_p8_shapes.py"
TRAIN = ("train_dataloader",)
DATA = {"dataset": {"type": "CocoDataset", "ann_file": "a.json", "metainfo": {"classes": ("cow", "hen")}}}


def check(model, scope="mmdet", data=DATA):
    check_heads(Config({"default_scope": scope, "model": deepcopy(model), "train_dataloader": data}), TRAIN)


@pytest.mark.parametrize(
    ("path", "option"),
    [
        (MASK_RCNN, "model.roi_head.bbox_head.num_classes"),
        (MASK_RCNN, "model.roi_head.mask_head.num_classes"),
        (UPERNET, "model.decode_head.num_classes"),
        (UPERNET, "model.auxiliary_head.num_classes"),
    ],
)
@pytest.mark.parametrize("loader", ["train_dataloader", "test_dataloader"])
def test_a_head_with_another_number_of_classes_than_the_data_is_refused(path, option, loader):
    right = load_config(path)
    check_heads(right, (loader,))
    wrong = load_config(path, {option: 3})
    with raises_user_error(f"{option} is 3", loader, "circle, square, triangle, star", f"{option}="):
        check_heads(wrong, (loader,))


def test_every_head_of_a_cascade_is_compared_and_all_wrong_ones_are_named():
    heads = [{"type": "Shared2FCBBoxHead", "num_classes": count} for count in (2, 3, 4)]
    model = {"roi_head": {"type": "CascadeRoIHead", "bbox_head": heads}}
    with raises_user_error("model.roi_head.bbox_head.1.num_classes is 3", "model.roi_head.bbox_head.2.num_classes=2"):
        check(model)
    check({"roi_head": {"type": "CascadeRoIHead", "bbox_head": heads[:1] * 3}})


def test_the_number_of_a_head_that_the_config_does_not_set_is_the_default_of_its_class():
    with raises_user_error("model.roi_head.bbox_head.num_classes is 80", "cow, hen"):
        check({"roi_head": {"bbox_head": {"type": "mmdet.Shared2FCBBoxHead"}}})
    with raises_user_error("model.roi_head.mask_head.num_classes is 80"):
        check({"roi_head": {"mask_head": {"type": "FCNMaskHead"}}})


def test_one_stage_detectors_and_lists_of_segmentation_heads_are_compared():
    with raises_user_error("model.bbox_head.num_classes is 80"):
        check({"type": "RetinaNet", "bbox_head": {"type": "RetinaHead", "num_classes": 80}})
    names = {"dataset": {"type": "BaseSegDataset", "data_prefix": {}, "metainfo": {"classes": ("sky", "sea")}}}
    heads = [{"type": "FCNHead", "num_classes": 2}, {"type": "PointHead", "num_classes": 19}]
    with raises_user_error("model.decode_head.1.num_classes is 19", "sky, sea"):
        check({"decode_head": heads}, "mmseg", names)
    with raises_user_error("model.auxiliary_head.1.num_classes is 19"):
        check({"decode_head": heads[0], "auxiliary_head": heads}, "mmseg", names)


def test_things_and_stuff_of_panoptic_data_are_counted_apart():
    data = {"dataset": {"type": "CocoPanopticDataset", "ann_file": "a.json"}}
    head = {"type": "MaskFormerHead", "num_things_classes": 80, "num_stuff_classes": 53}
    check({"panoptic_head": head}, data=data)
    with raises_user_error("model.panoptic_head.num_stuff_classes is 0"):
        check({"panoptic_head": {**head, "num_stuff_classes": 0}}, data=data)
    with raises_user_error("model.panoptic_head.num_things_classes is 80"):
        check({"panoptic_head": {**head, "num_stuff_classes": 0}})


def test_parts_with_classes_of_their_own_are_not_compared():
    parts = {"backbone": {"num_classes": 1000}, "rpn_head": {"type": "RPNHead", "num_classes": 1}}
    check({**parts, "roi_head": {"semantic_head": {"type": "FusedSemanticHead"}}})
    check({"language_model": {"type": "BertModel"}, "bbox_head": {"type": "ATSSVLFusionHead", "num_classes": 80}})


def test_data_without_names_of_classes_is_not_compared():
    data = {"dataset": {"type": "BaseSegDataset", "data_prefix": {}}}
    check({"decode_head": {"num_classes": 5}}, "mmseg", data)
