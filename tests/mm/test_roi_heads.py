"""Fused parts of two-stage detectors have the parameters, outputs and gradients of MMDetection's parts."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="MMDetection is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmdet.models.roi_heads.cascade_roi_head import CascadeRoIHead
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import FCNMaskHead, _do_paste_mask
from mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor import SingleRoIExtractor
from mmdet.models.roi_heads.standard_roi_head import StandardRoIHead
from mmdet.models.task_modules.assigners import BboxOverlaps2D
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.structures.bbox import bbox2roi
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from tests.helpers.models import assert_close, randomise
from xcit_dense.mm.roi_heads import (
    FusedBboxOverlaps2D,
    FusedCascadeRoIHead,
    FusedFCNMaskHead,
    FusedSingleRoIExtractor,
    FusedStandardRoIHead,
    draw_masks,
)

CLASSES, CHANNELS, HEIGHT, WIDTH = 5, 16, 96, 128
STRIDES = [4, 8, 16, 32]


@pytest.fixture(autouse=True)
def scope():
    """Parts look up their layers in MMDetection's registry, whatever other tests have left."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def make_levels(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, CHANNELS, HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def make_boxes(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float64)
    near = torch.rand(count, 2, generator=generator, dtype=torch.float64) * size * 0.8
    far = near + (size - near) * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([near, far], dim=1)


def make_rois(count=20):
    return bbox2roi([make_boxes(count, seed) for seed in (1, 2)])


def extractor_arguments(size=7, ratio=0):
    layer = {"type": "RoIAlign", "output_size": size, "sampling_ratio": ratio}
    return {"roi_layer": layer, "out_channels": CHANNELS, "featmap_strides": STRIDES, "finest_scale": 14}


def head_arguments(**options):
    widths = {"in_channels": CHANNELS, "conv_out_channels": CHANNELS, "num_classes": CLASSES, "num_convs": 1}
    loss = {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0}
    return {**widths, "loss_mask": loss, **options}


def make_heads(**options):
    theirs = randomise(FCNMaskHead(**head_arguments(**copy.deepcopy(options))))
    ours = FusedFCNMaskHead(**head_arguments(**options))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs.double(), ours.double()


# The extractor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["FusedSingleRoIExtractor", "FusedFCNMaskHead", "FusedStandardRoIHead", "FusedCascadeRoIHead"]
)
def test_mmdetection_finds_the_parts_by_their_names(name):
    from mmdet.registry import MODELS

    assert MODELS.get(name).__module__ == "xcit_dense.mm.roi_heads"


def test_the_import_of_the_package_does_not_import_the_models_of_mmdetection():
    code = "import sys, xcit_dense.mm; print('mmdet.models' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False\n")


@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("factor", [None, 1.3])
def test_the_extractor_has_the_outputs_and_gradients_of_the_library(levels, ratio, factor):
    maps, rois = make_levels()[:levels], make_rois()
    results = []
    for kind in (SingleRoIExtractor, FusedSingleRoIExtractor):
        pooled = kind(**extractor_arguments(ratio=ratio))(tuple(maps), rois, factor)
        grad = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(3), dtype=pooled.dtype)
        results.append([pooled, *torch.autograd.grad(pooled, maps, grad)])
    for found, expected in zip(results[1], results[0]):
        torch.testing.assert_close(found, expected)


def test_levels_without_boxes_get_zero_gradients():
    maps = make_levels()
    pooled = FusedSingleRoIExtractor(**extractor_arguments())(
        tuple(maps), bbox2roi([make_boxes(1) * 0 + 40, make_boxes(0)])
    )
    gradients = torch.autograd.grad(pooled.sum(), maps)
    assert [bool(one.any()) for one in gradients] == [False] * 4


def test_without_boxes_the_output_is_empty():
    rois = torch.zeros(0, 5, dtype=torch.float64)
    assert FusedSingleRoIExtractor(**extractor_arguments())(tuple(make_levels()), rois).shape == (0, CHANNELS, 7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_levels_of_lower_precision_are_pooled_as_the_library_pools_them(dtype):
    maps, rois = [x.detach() for x in make_levels(dtype)], make_rois().float()
    theirs = SingleRoIExtractor(**extractor_arguments())(tuple(maps), rois)
    ours = FusedSingleRoIExtractor(**extractor_arguments())(tuple(maps), rois)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs)


def test_a_layer_with_a_hook_is_called():
    extractor, calls = FusedSingleRoIExtractor(**extractor_arguments()), []
    extractor.roi_layers[0].register_forward_hook(lambda *call: calls.append(call))
    expected = SingleRoIExtractor(**extractor_arguments())(tuple(make_levels()), make_rois())
    torch.testing.assert_close(extractor(tuple(make_levels()), make_rois()), expected)
    assert calls


def test_the_maximum_is_left_to_the_library():
    arguments = extractor_arguments()
    arguments["roi_layer"]["pool_mode"] = "max"
    maps = tuple(x.detach().float() for x in make_levels())
    expected = SingleRoIExtractor(**copy.deepcopy(arguments))(maps, make_rois().float())
    assert torch.equal(FusedSingleRoIExtractor(**arguments)(maps, make_rois().float()), expected)


# The mask head ---------------------------------------------------------------------------------------

HEADS = {
    "deconvolution": {},
    "without convolutions": {"num_convs": 0},
    "three times as large": {"upsample_cfg": {"type": "deconv", "scale_factor": 3}},
    "nearest": {"upsample_cfg": {"type": "nearest", "scale_factor": 2}},
    "not enlarged": {"upsample_cfg": {"type": None}},
    "class-agnostic": {"class_agnostic": True},
}


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
def test_the_mask_head_has_the_outputs_and_gradients_of_the_library(options):
    x = torch.randn(3, CHANNELS, 7, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for head in make_heads(**options):
        logits = head(x)
        grad = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=logits.dtype)
        results.append([logits, *torch.autograd.grad(logits, [x, *head.parameters()], grad)])
        with torch.no_grad():
            torch.testing.assert_close(head(x), logits)
    for found, expected in zip(results[1], results[0]):
        assert_close(found, expected)


def test_a_layer_of_the_mask_head_with_a_hook_is_called():
    _, head = make_heads()
    calls = []
    head.conv_logits.register_forward_hook(lambda *call: calls.append(call))
    head(torch.randn(3, CHANNELS, 7, 6, dtype=torch.float64))
    assert len(calls) == 1


def paste_as_the_library(masks, boxes, size, threshold):
    drawn = torch.zeros(len(masks), *size, dtype=torch.bool if threshold >= 0 else torch.uint8)
    for index in range(len(masks)):
        values, place = _do_paste_mask(masks[index][None, None], boxes[index][None], *size, skip_empty=True)
        part = values >= threshold if threshold >= 0 else (values * 255).to(torch.uint8)
        drawn[(index, *place)] = part[0]
    return drawn


BOXES = {
    "inside": [10.3, 7.8, 60.2, 50.1],
    "the complete image": [0, 0, WIDTH, HEIGHT],
    "over the borders": [-5.5, -3.2, WIDTH + 9.1, HEIGHT + 4.4],
    "at the last corner": [WIDTH - 3.5, HEIGHT - 0.4, WIDTH, HEIGHT],
    "integer corners": [16, 8, 44, 36],
    "less than a pixel": [20.1, 20.2, 20.6, 20.4],
    "without width": [20.5, 10, 20.5, 40],
    "without area": [20, 10, 20, 10],
    "one row": [3, 9.2, 90, 9.9],
}


@pytest.mark.parametrize("threshold", [0.5, 0.0, -1])
@pytest.mark.parametrize("grid", [(28, 28), (14, 56), (1, 1)])
def test_masks_are_drawn_as_the_library_draws_them_to_the_bit(grid, threshold):
    boxes = torch.cat([torch.tensor([*BOXES.values()], dtype=torch.float32), make_boxes(20).float()])
    masks = torch.rand(len(boxes), *grid, generator=torch.Generator().manual_seed(4))
    expected = paste_as_the_library(masks, boxes, (HEIGHT, WIDTH), threshold)
    drawn = draw_masks(masks, boxes, (HEIGHT, WIDTH), threshold)
    assert drawn.dtype == expected.dtype
    assert torch.equal(drawn, expected)


def test_a_box_outside_of_the_image_has_an_empty_mask():
    assert not draw_masks(torch.ones(1, 4, 4), torch.tensor([[200.0, 200, 220, 230]]), (HEIGHT, WIDTH), 0.5).any()


# RoI heads -------------------------------------------------------------------------------------------


def make_roi_heads(cascade=False, **mask_options):
    bbox_head = {
        "type": "Shared2FCBBoxHead",
        "in_channels": CHANNELS,
        "fc_out_channels": 8,
        "roi_feat_size": 7,
        "num_classes": CLASSES,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    }
    sampler = {"type": "RandomSampler", "num": 16, "pos_fraction": 0.5}
    assigner = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5}
    stage = {"assigner": assigner, "sampler": sampler, "mask_size": 28, "pos_weight": -1, "debug": False}
    test = {"score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 9, "mask_thr_binary": 0.5}
    heads = []
    kinds = [("SingleRoIExtractor", "FCNMaskHead"), ("FusedSingleRoIExtractor", "FusedFCNMaskHead")]
    for (extractor, mask_head), kind in zip(
        kinds, (CascadeRoIHead, FusedCascadeRoIHead) if cascade else (StandardRoIHead, FusedStandardRoIHead)
    ):
        more = {"num_stages": 2, "stage_loss_weights": [1, 0.5]} if cascade else {}
        config = ConfigDict(
            bbox_roi_extractor={"type": extractor, **extractor_arguments(7)},
            bbox_head=[bbox_head] * 2 if cascade else bbox_head,
            mask_roi_extractor={"type": extractor, **extractor_arguments(14)},
            mask_head={"type": mask_head, **head_arguments(**mask_options)},
            train_cfg=[stage] * 2 if cascade else stage,
            test_cfg=test,
            **more,
        )
        heads.append(kind(**copy.deepcopy(config)))
    heads[1].load_state_dict(randomise(heads[0]).state_dict())
    return [head.double() for head in heads]


def make_results():
    generator = torch.Generator().manual_seed(5)
    return [
        InstanceData(
            bboxes=make_boxes(count, count).float(),
            scores=torch.rand(count, generator=generator),
            labels=torch.randint(CLASSES, (count,), generator=generator),
        )
        for count in (6, 4)
    ]


METAS = [{"ori_shape": (60, 80), "img_shape": (HEIGHT, WIDTH), "scale_factor": (1.6, 1.6), "flip": False}] * 2


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("options", [{}, HEADS["nearest"], HEADS["class-agnostic"]])
@pytest.mark.parametrize("cascade", [False, True])
def test_roi_heads_find_the_masks_and_boxes_of_the_library(cascade, options, rescale):
    found = []
    for head in make_roi_heads(cascade, **copy.deepcopy(options)):
        with torch.no_grad():
            levels = tuple(make_levels(torch.float32))
            found.append(head.float().eval().predict_mask(levels, METAS, make_results(), rescale))
    for theirs, ours in zip(*found):
        assert ours.masks.any()
        # A probability next to the threshold may be rounded to the other side.
        assert (ours.masks != theirs.masks).sum() <= 1
        assert torch.equal(ours.bboxes, theirs.bboxes)


def test_images_without_objects_have_no_masks():
    results = [one[:0] for one in make_results()]
    found = make_roi_heads()[1].float().predict_mask(tuple(make_levels(torch.float32)), METAS, results, rescale=True)
    assert [one.masks.shape for one in found] == [(0, 60, 80)] * 2


def make_samples():
    """Two images with 3 objects each. Each object has two boxes."""
    samples, truths = [], []
    for seed in (1, 2):
        objects = make_boxes(3, seed)
        labels = torch.tensor([1, 4, 1])
        index = torch.tensor([0, 2, 1, 2, 0, 1])
        boxes = (objects[index] + torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))).clamp(min=0)
        sample = SamplingResult.__new__(SamplingResult)
        sample.pos_priors, sample.pos_assigned_gt_inds, sample.pos_gt_labels = boxes, index, labels[index]
        samples.append(sample)
        pixels = np.random.default_rng(seed).random((3, HEIGHT, WIDTH)) > 0.5
        truths.append(
            InstanceData(bboxes=objects, labels=labels, masks=BitmapMasks(pixels.astype(np.uint8), HEIGHT, WIDTH))
        )
    return samples, truths


@pytest.mark.parametrize("cascade", [False, True])
def test_the_loss_of_masks_and_its_gradients_are_those_of_the_library(cascade):
    results = []
    for head in make_roi_heads(cascade):
        levels, (samples, truths) = make_levels(), make_samples()
        arguments = (1, levels, samples, truths) if cascade else (levels, samples, None, truths)
        found = head.mask_loss(*arguments)
        (loss,) = found["loss_mask"].values()
        parameters = [*(head.mask_head[1] if cascade else head.mask_head).parameters()]
        results.append([loss, found.get("mask_targets", loss), *torch.autograd.grad(loss, [*levels, *parameters])])
    for ours, theirs in zip(results[1], results[0]):
        torch.testing.assert_close(ours, theirs)


def test_a_loss_that_may_read_all_classes_receives_all_classes():
    class Loss(nn.Module):
        def forward(self, logits, targets, labels):
            self.classes = logits.shape[1]
            return logits.mean()

    head = make_roi_heads()[1]
    head.mask_head.loss_mask = Loss()
    samples, truths = make_samples()
    head.mask_loss(make_levels(), samples, None, truths)
    assert head.mask_head.loss_mask.classes == CLASSES


@pytest.mark.parametrize("soft", [False, True])
def test_the_ground_truth_of_boxes_is_that_of_the_library_to_the_bit(soft):
    samples, truths = make_samples()
    config = ConfigDict(mask_size=28, soft_mask_target=soft)
    targets = [head.get_targets(samples, truths, rcnn_train_cfg=config) for head in make_heads()]
    assert 0 < targets[0].mean() < 1
    assert torch.equal(targets[1], targets[0])


def test_an_image_without_positive_boxes_has_no_ground_truth():
    samples, truths = make_samples()
    samples[0].pos_priors, samples[0].pos_assigned_gt_inds = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    targets = make_heads()[1].get_targets(samples, truths, ConfigDict(mask_size=28))
    assert targets.shape == (6, 28, 28)


def test_polygons_are_left_to_the_library():
    samples, truths = make_samples()
    polygon = [np.array([5.0, 5, 60, 5, 60, 70, 5, 70])]
    for truth in truths:
        truth.masks = PolygonMasks([polygon] * 3, HEIGHT, WIDTH)
    theirs, ours = (head.get_targets(samples, truths, ConfigDict(mask_size=28)) for head in make_heads())
    assert torch.equal(ours, theirs)


# Overlaps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
@pytest.mark.parametrize("count", [0, 3])
def test_overlaps_of_many_boxes_are_those_of_the_library_to_the_bit(mode, count):
    boxes, anchors = make_boxes(count).float(), make_boxes(40000, 2).float()
    expected = BboxOverlaps2D()(boxes, anchors, mode)
    assert torch.equal(FusedBboxOverlaps2D()(boxes, anchors, mode), expected)


def test_overlaps_of_aligned_boxes_are_those_of_the_library():
    boxes, anchors = make_boxes(40000).float(), make_boxes(40000, 2).float()
    expected = BboxOverlaps2D()(boxes, anchors, is_aligned=True)
    assert torch.equal(FusedBboxOverlaps2D()(boxes, anchors, is_aligned=True), expected)
