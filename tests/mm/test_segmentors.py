import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.registry import DefaultScope
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample

from tests.helpers.models import random_images
from xcit_dense.mm.segmentors import FusedEncoderDecoder


def make_pair(classes):
    """Makes the library's segmentor and the faster segmentor. Only what follows the head is used."""
    backbone = {"type": "XCiT", "variant": "nano_12_p16"}
    head = {"type": "FCNHead", "in_channels": 128, "channels": 8, "num_classes": classes, "align_corners": False}
    if classes == 2:
        head |= {"out_channels": 1, "threshold": 0.4, "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True}}
    with DefaultScope.overwrite_default_scope("mmseg"):
        return [
            kind(backbone=backbone, decode_head=head, test_cfg={}) for kind in (EncoderDecoder, FusedEncoderDecoder)
        ]


SAMPLES = {
    "as it is": {"ori_shape": (20, 30)},
    "resized": {"ori_shape": (33, 47)},
    "padded": {"ori_shape": (18, 25), "padding_size": [0, 5, 0, 2]},
    "padded twice": {"ori_shape": (18, 25), "padding_size": [0, 9, 0, 9], "img_padding_size": [2, 3, 1, 1]},
    "flipped": {"ori_shape": (20, 30), "flip": True, "flip_direction": "horizontal"},
    "flipped and resized": {"ori_shape": (40, 31), "flip": True, "flip_direction": "vertical"},
}


@pytest.mark.parametrize("meta", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("classes", [2, 5])
def test_logits_and_labels_are_those_of_the_library(classes, meta):
    logits = random_images(2, 1 if classes == 2 else classes, 20, 30)
    results = []
    for segmentor in make_pair(classes):
        results.append(segmentor.postprocess_result(logits.clone(), [SegDataSample(metainfo=meta) for _ in range(2)]))
    for expected, found in zip(*results):
        assert torch.equal(found.seg_logits.data, expected.seg_logits.data)
        assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_logits_without_samples_are_not_changed():
    logits = random_images(2, 5, 20, 30)
    _, segmentor = make_pair(5)
    found = segmentor.postprocess_result(logits)
    assert torch.equal(found[1].seg_logits.data, logits[1])
    assert torch.equal(found[1].pred_sem_seg.data, logits[1].argmax(dim=0, keepdim=True))
