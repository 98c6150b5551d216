import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample

from tests.helpers.models import random_images, randomise
from xcit_dense.mm.segmentors import FusedEncoderDecoder


def make_pair(**changes):
    """Makes the library's segmentor and the segmentor that can leave out logits, with the same weights."""
    head = {"type": "FCNHead", "in_channels": 128, "channels": 8, "num_classes": 5, "align_corners": False, **changes}
    backbone = {"type": "XCiT", "variant": "nano_12_p16"}
    config = ConfigDict(backbone=backbone, decode_head=head, test_cfg={"mode": "whole"})
    with DefaultScope.overwrite_default_scope("mmseg"):
        theirs, ours = (kind(**config) for kind in (EncoderDecoder, FusedEncoderDecoder))
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def predict(segmentor, images, meta):
    samples = [SegDataSample(metainfo={"img_shape": images.shape[2:4], **meta}) for _ in images]
    with torch.no_grad():
        return segmentor.predict(images, samples)


SIZE = (48, 64)
SAMPLES = {
    "as it is": {"ori_shape": SIZE},
    "resized": {"ori_shape": (33, 47)},
    "padded": {"ori_shape": (40, 57), "padding_size": [0, 5, 0, 2]},
    "padded twice": {"ori_shape": (40, 57), "padding_size": [0, 9, 0, 9], "img_padding_size": [2, 3, 1, 1]},
    "flipped": {"ori_shape": SIZE, "flip": True, "flip_direction": "horizontal"},
    "flipped and resized": {"ori_shape": (80, 31), "flip": True, "flip_direction": "vertical"},
}


@pytest.mark.parametrize("meta", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_labels_without_logits_are_those_of_the_library(align_corners, meta):
    theirs, ours = make_pair(align_corners=align_corners)
    ours.keeps_logits = False
    images = random_images(2, 3, *SIZE)
    for expected, found in zip(predict(theirs, images, meta), predict(ours, images, meta)):
        assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)
        assert "seg_logits" not in found


def test_logits_are_kept_by_default():
    theirs, ours = make_pair()
    images = random_images(1, 3, *SIZE)
    (expected,), (found,) = (predict(model, images, SAMPLES["resized"]) for model in (theirs, ours))
    assert torch.equal(found.seg_logits.data, expected.seg_logits.data)
    assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)


@pytest.mark.parametrize("slides", [False, True])
def test_windows_and_single_logits_are_predicted_as_in_the_library(slides):
    sigmoid = {"type": "CrossEntropyLoss", "use_sigmoid": True}
    changes = {} if slides else {"num_classes": 2, "out_channels": 1, "threshold": 0.5, "loss_decode": sigmoid}
    theirs, ours = make_pair(**changes)
    ours.keeps_logits = False
    for model in (theirs, ours):
        model.test_cfg.update({"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)} if slides else {})
    images = random_images(1, 3, *SIZE)
    (expected,), (found,) = (predict(model, images, SAMPLES["resized"]) for model in (theirs, ours))
    assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)
