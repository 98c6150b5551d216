"""The detectors of torchvision train and predict on backbones of this package."""

import pytest
import torch
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from tests.helpers.models import tiny_coat, tiny_xcit
from xcit_dense.integrations.torchvision import BackboneWithFPN

SIZE = {"min_size": 64, "max_size": 96}
ONE_STAGE = {"out_strides": (8, 16, 32)}


def make(detector, build):
    """Makes a detector of three classes on a tiny backbone."""
    torch.manual_seed(0)
    if detector in (FCOS, RetinaNet):
        options = ONE_STAGE if build is tiny_coat else {**ONE_STAGE, "out_indices": (1, 2, 3)}
        backbone = BackboneWithFPN(build(**options), 64, LastLevelP6P7(64, 64))
    else:
        backbone = BackboneWithFPN(build(), 32)
    return detector(backbone, num_classes=3, **SIZE)


@pytest.mark.parametrize("build", [tiny_xcit, tiny_coat])
@pytest.mark.parametrize("detector", [FasterRCNN, MaskRCNN, RetinaNet, FCOS])
def test_a_detector_trains_each_part_of_the_backbone_and_predicts(detector, build):
    model = make(detector, build).train()
    image = torch.rand(3, 64, 96)
    boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0], [30.0, 10.0, 50.0, 40.0]])
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    masks[:, 10:40, 30:50] = 1
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    losses = model([image, image], [target, target])
    sum(losses.values()).backward()
    body = model.backbone.body
    assert all(p.grad is not None and p.grad.isfinite().all() for p in body.parameters())
    with torch.no_grad():
        (found,) = model.eval()([image])
    assert {"boxes", "labels", "scores"} <= set(found)
    assert len(found["boxes"]) == len(found["scores"])


def test_the_outputs_have_the_strides_of_the_levels_and_one_more():
    backbone = BackboneWithFPN(tiny_xcit(), 32).eval()
    outputs = backbone(torch.rand(1, 3, 64, 128))
    assert [tuple(output.shape[1:]) for output in outputs.values()] == [
        (32, 64 // stride, 128 // stride) for stride in (4, 8, 16, 32, 64)
    ]
