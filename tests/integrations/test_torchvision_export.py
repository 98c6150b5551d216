"""The detectors of torchvision are exported on backbones of this package as they are on torchvision's own ResNet."""

import io

import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from tests.helpers.models import randomise, tiny_coat, tiny_xcit
from tests.integrations.test_torchvision import SIZE, make

onnxruntime = pytest.importorskip("onnxruntime", reason="install requirements/integrations.lock")

DETECTORS = [FasterRCNN, MaskRCNN, RetinaNet, FCOS]
SIZES = [(64, 96), (96, 96), (80, 64)]  # the first is recorded


def make_plain(detector):
    """Makes a detector on torchvision's own backbone."""
    torch.manual_seed(0)
    if detector in (FCOS, RetinaNet):
        extra = LastLevelP6P7(256, 256)
        return detector(_resnet_fpn_extractor(resnet18(), 5, [2, 3, 4], extra), num_classes=3, **SIZE)
    return detector(_resnet_fpn_extractor(resnet18(), 5), num_classes=3, **SIZE)


def record(model):
    """Exports a detector through TorchScript to ONNX, as torchvision's documentation does."""
    file = io.BytesIO()
    axes = {"image": {1: "height", 2: "width"}}
    image = torch.rand(3, *SIZES[0])
    torch.onnx.export(model, ([image],), file, dynamo=False, opset_version=17, input_names=["image"], dynamic_axes=axes)
    return onnxruntime.InferenceSession(file.getvalue())


def match(expected, found):
    """Pairs objects of the same class, score and box. Rounding may exchange objects of nearly the same score."""
    pairs = []
    for number, (box, label, score) in enumerate(zip(*(expected[key] for key in ("boxes", "labels", "scores")))):
        near = (found["boxes"] - box).abs().amax(dim=1) < 0.05
        near &= (found["labels"] == label) & ((found["scores"] - score).abs() < 1e-3)
        pairs += [(number, int(near.nonzero()[0]))] if near.any() else []
    return pairs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", [tiny_xcit, tiny_coat])
@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.__name__)
def test_an_exported_detector_finds_the_same_at_sizes_that_it_has_not_seen(detector, build):
    model = make(detector, build).eval()
    randomise(model)  # otherwise all scores are alike
    session = record(model)
    for size in SIZES:
        image = torch.rand(3, *size)
        with torch.no_grad():
            (expected,) = model([image])
        values = session.run(None, {"image": image.numpy()})
        found = {name: torch.from_numpy(value) for name, value in zip(expected, values, strict=True)}
        pairs = match(expected, found)
        assert len(pairs) >= 0.95 * max(1, len(expected["boxes"]), len(found["boxes"]))
        for one, other in pairs if "masks" in expected else []:
            # A box that rounds to another pixel moves the edge of its mask.
            assert (found["masks"][other] - expected["masks"][one]).abs().mean() < 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("detector", [FasterRCNN, FCOS], ids=lambda detector: detector.__name__)
def test_torch_export_fails_on_a_plain_detector_too(detector):
    for model in (make_plain(detector), make(detector, tiny_xcit)):
        with pytest.raises(RuntimeError, match="Could not guard on data-dependent expression"):
            torch.export.export(model.eval(), ([torch.rand(3, *SIZES[0])],), strict=False)
