"""Fused heads have the parameters, outputs and gradients of MMSegmentation's heads."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.models.decode_heads.fcn_head import FCNHead
from mmseg.models.decode_heads.fpn_head import FPNHead
from mmseg.models.decode_heads.segformer_head import SegformerHead
from mmseg.models.decode_heads.uper_head import UPerHead
from mmseg.structures import SegDataSample

from tests.helpers.models import assert_close, random_images, randomise
from xcit_dense.mm.heads import FusedFCNHead, FusedFPNHead, FusedSegformerHead, FusedUPerHead

SIZES = {
    "halves": [(32, 24), (16, 12), (8, 6), (4, 3)],
    "odd": [(35, 26), (18, 13), (9, 7), (5, 4)],
    "equal": [(8, 6), (8, 6), (4, 3), (4, 3)],
}
WIDTHS = [6, 8, 10, 12]


PAIRS = {"upernet": (UPerHead, FusedUPerHead), "segformer": (SegformerHead, FusedSegformerHead)}
of_each_head = pytest.mark.parametrize("name", PAIRS)


@pytest.fixture(autouse=True)
def scope():
    """Heads look up their losses in MMSegmentation's registry, whatever other tests have left."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


def make_pair(name="upernet", **options):
    """Makes a head of MMSegmentation and the fused head, with the same weights, in float64."""
    library_head, fused_head = PAIRS[name]
    options = {"norm_cfg": {"type": "BN"}, "dropout_ratio": 0.0, "align_corners": False, **options}
    arguments = {"in_channels": WIDTHS, "in_index": [0, 1, 2, 3], "channels": 16, "num_classes": 5, **options}
    theirs = randomise(library_head(**copy.deepcopy(arguments)))
    ours = fused_head(**arguments)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs.double(), ours.double()


def make_levels(sizes):
    return [random_images(2, width, *size).double().requires_grad_() for width, size in zip(WIDTHS, sizes)]


@pytest.mark.parametrize("first", ["", "import mmseg.models; mmseg.registry.MODELS.get('FCNHead'); "])
def test_mmsegmentation_finds_it_by_its_name_whenever_the_package_is_imported(first):
    code = f"{first}import xcit_dense.mm; from mmseg.registry import MODELS; print(MODELS.get('FusedUPerHead'))"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "xcit_dense.mm.heads.FusedUPerHead" in run.stdout


def test_the_import_of_the_package_does_not_import_the_models_of_mmsegmentation():
    code = "import sys, xcit_dense.mm; print('mmseg.models' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False\n")


@of_each_head
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_outputs_gradients_and_statistics_are_those_of_the_library(sizes, training, align_corners, name):
    levels, results = make_levels(sizes), []
    for head in make_pair(name, align_corners=align_corners):
        output = head.train(training)(levels)
        grad = random_images(*output.shape).double()
        gradients = torch.autograd.grad(output, [*levels, *head.parameters()], grad)
        results.append([output, *gradients, *(value.double() for value in head.buffers())])
    for found, expected in zip(*reversed(results)):
        # A gradient that is zero without rounding has no deviation of its own.
        assert_close(found, expected, 1e-8) if expected.abs().max() > 1e-12 else assert_close(found + 1, expected + 1)


@of_each_head
def test_float32_is_as_exact_as_the_library(name):
    theirs, ours = make_pair(name)
    levels = make_levels(SIZES["odd"])
    with torch.no_grad():
        exact = theirs.eval()(levels)
        found = ours.float().eval()([level.float() for level in levels])
    assert_close(found, exact, 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"norm_cfg": None},
        {"norm_cfg": {"type": "GN", "num_groups": 4}, "act_cfg": {"type": "LeakyReLU"}},
        {"act_cfg": None},
        {"conv_cfg": {"type": "ConvWS"}},
    ],
    ids=str,
)
def test_other_norms_activations_and_convolutions_are_those_of_the_library(options):
    levels = make_levels(SIZES["odd"])
    theirs, ours = make_pair(**options)
    assert_close(ours.eval()(levels), theirs.eval()(levels), 1e-8)


def test_a_layer_with_hooks_is_called():
    levels, seen = make_levels(SIZES["halves"]), []
    theirs, ours = make_pair()
    for layer in (ours.fpn_bottleneck, ours.bottleneck.conv, ours.psp_modules):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[1]))
    assert_close(ours.eval()(levels), theirs.eval()(levels), 1e-8)
    assert sorted(seen) == [12, 4 * 16, 12 + 4 * 16]


@of_each_head
def test_a_batch_norm_that_is_folded_into_its_convolution_keeps_the_outputs(name):
    from mmcv.cnn import fuse_conv_bn

    levels = make_levels(SIZES["odd"])
    theirs, ours = make_pair(name)
    folded = fuse_conv_bn(ours.eval())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert_close(folded(levels), theirs.eval()(levels), 1e-8)


def test_other_interpolation_than_bilinear_is_that_of_the_library():
    levels = make_levels(SIZES["odd"])
    theirs, ours = make_pair("segformer", interpolate_mode="nearest", align_corners=None)
    assert_close(ours.eval()(levels), theirs.eval()(levels), 1e-8)


LEVELS = {"in_channels": WIDTHS, "in_index": [0, 1, 2, 3]}
LOSS_PAIRS = {
    "upernet": (*PAIRS["upernet"], LEVELS),
    "segformer": (*PAIRS["segformer"], LEVELS),
    "sem_fpn": (FPNHead, FusedFPNHead, {**LEVELS, "feature_strides": [4, 8, 16, 32]}),
    "fcn": (FCNHead, FusedFCNHead, {"in_channels": 6, "in_index": 0}),
}
CROSS_ENTROPY = {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4}


def losses_of(head_type, arguments, loss, sampler=None, ignored=255):
    """Returns the losses of a head, and the gradient of its logits (2, 5, 8, 6) for labels of 32 x 24 pixels."""
    options = {"channels": 16, "num_classes": 5, "norm_cfg": {"type": "BN"}, "align_corners": False}
    head = head_type(**arguments, **options, loss_decode=copy.deepcopy(loss), sampler=sampler)
    logits = random_images(2, 5, 8, 6).requires_grad_()
    labels = torch.randint(6, (2, 1, 32, 24), generator=torch.Generator().manual_seed(0))
    labels = labels.where(labels < 5, ignored)
    found = head.loss_by_feat(logits, [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels])
    sum(value for name, value in found.items() if "loss" in name).backward()
    return found, logits.grad


def assert_equal_losses(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, [CROSS_ENTROPY, {**CROSS_ENTROPY, "avg_non_ignore": True}]], ids=str)
@pytest.mark.parametrize("name", LOSS_PAIRS)
def test_losses_and_their_gradients_are_those_of_the_library_without_logits_of_all_pixels(name, loss, monkeypatch):
    library, fused, arguments = LOSS_PAIRS[name]
    expected = losses_of(library, arguments, loss)
    monkeypatch.setattr(library, "loss_by_feat", None)
    assert_equal_losses(losses_of(fused, arguments, loss), expected)


@pytest.mark.parametrize(
    ("loss", "sampler"),
    [
        ({**CROSS_ENTROPY, "class_weight": [1.0, 2, 3, 4, 5]}, None),
        ({"type": "DiceLoss"}, None),
        ([CROSS_ENTROPY, {"type": "DiceLoss"}], None),
        (CROSS_ENTROPY, {"type": "OHEMPixelSampler", "thresh": 0.7, "min_kept": 100}),
    ],
    ids=str,
)
def test_other_losses_are_those_of_the_library(loss, sampler):
    library, fused, arguments = LOSS_PAIRS["fcn"]
    # The original MMSegmentation looks up the weight of the class of each pixel, also of ignored pixels.
    more = {"sampler": sampler, "ignored": 0}
    assert_equal_losses(losses_of(fused, arguments, loss, **more), losses_of(library, arguments, loss, **more))
