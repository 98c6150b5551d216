"""Detectors and segmentors as MMDetection 2 and MMSegmentation 0.x saved them load completely into today's models."""

import importlib
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import assert_close, matching_names, random_images, randomise
from xcit_dense import XCiT
from xcit_dense.models.pretrained import load_weights
from xcit_dense.weights import zoo

MODELS = Path(__file__).parents[2] / "configs/_base_/models"
VARIANT, WIDTH = "nano_12_p16", 128

# Names and shapes of the published necks and heads, with these widths in place of 256, 1024, 512, 256 and 128 channels.
NECK, HIDDEN, UPER, AUX, FPN = 16, 24, 20, 12, 8


def conv(name, *shape, bias=True, transposed=False):
    entries = {f"{name}.weight": shape}
    return {**entries, f"{name}.bias": (shape[1 if transposed else 0],)} if bias else entries


def conv_bn(name, *shape):
    vectors = ("weight", "bias", "running_mean", "running_var")
    norm = {f"{name}.bn.{part}": shape[:1] for part in vectors} | {f"{name}.bn.num_batches_tracked": ()}
    return conv(f"{name}.conv", *shape, bias=False) | norm


def fpn(width):
    entries = {}
    for level in range(4):
        entries |= conv(f"neck.lateral_convs.{level}.conv", width, WIDTH, 1, 1)
        entries |= conv(f"neck.fpn_convs.{level}.conv", width, width, 3, 3)
    return entries


def mask_rcnn():
    """MMDetection 2: FPN, RPNHead, StandardRoIHead with Shared2FCBBoxHead and FCNMaskHead, 80 classes, 3 anchors."""
    entries = fpn(NECK)
    entries |= conv("rpn_head.rpn_conv", NECK, NECK, 3, 3)
    entries |= conv("rpn_head.rpn_cls", 3, NECK, 1, 1) | conv("rpn_head.rpn_reg", 12, NECK, 1, 1)
    box, mask = "roi_head.bbox_head", "roi_head.mask_head"
    entries |= conv(f"{box}.shared_fcs.0", HIDDEN, NECK * 49) | conv(f"{box}.shared_fcs.1", HIDDEN, HIDDEN)
    entries |= conv(f"{box}.fc_cls", 81, HIDDEN) | conv(f"{box}.fc_reg", 320, HIDDEN)
    for layer in range(4):
        entries |= conv(f"{mask}.convs.{layer}.conv", NECK, NECK, 3, 3)
    entries |= conv(f"{mask}.upsample", NECK, NECK, 2, 2, transposed=True)
    return entries | conv(f"{mask}.conv_logits", 80, NECK, 1, 1)


def sem_fpn():
    """MMSegmentation 0.x: FPN as wide as the backbone, FPNHead, 150 classes; every other layer interpolates."""
    entries = fpn(WIDTH) | conv("decode_head.conv_seg", 150, FPN, 1, 1)
    for level, layers in enumerate([(0,), (0,), (0, 2), (0, 2, 4)]):
        for layer in layers:
            entries |= conv_bn(f"decode_head.scale_heads.{level}.{layer}", FPN, FPN if layer else WIDTH, 3, 3)
    return entries


def upernet():
    """MMSegmentation 0.x: UPerHead, and FCNHead on the third level, 150 classes."""
    entries = conv("decode_head.conv_seg", 150, UPER, 1, 1) | conv("auxiliary_head.conv_seg", 150, AUX, 1, 1)
    for pool in range(4):
        entries |= conv_bn(f"decode_head.psp_modules.{pool}.1", UPER, WIDTH, 1, 1)
    entries |= conv_bn("decode_head.bottleneck", UPER, WIDTH + 4 * UPER, 3, 3)
    for level in range(3):
        entries |= conv_bn(f"decode_head.lateral_convs.{level}", UPER, WIDTH, 1, 1)
        entries |= conv_bn(f"decode_head.fpn_convs.{level}", UPER, UPER, 3, 3)
    entries |= conv_bn("decode_head.fpn_bottleneck", UPER, 4 * UPER, 3, 3)
    return entries | conv_bn("auxiliary_head.convs.0", AUX, WIDTH, 3, 3)


def shrink(config, kind):
    """Gives the published model the small widths above, so that the test is quick."""
    if kind == "mask_rcnn":
        config.neck.update(in_channels=[WIDTH] * 4, out_channels=NECK)
        config.rpn_head.update(in_channels=NECK, feat_channels=NECK)
        heads = config.roi_head
        heads.bbox_roi_extractor.out_channels = heads.mask_roi_extractor.out_channels = NECK
        heads.bbox_head.update(in_channels=NECK, fc_out_channels=HIDDEN)
        heads.mask_head.update(in_channels=NECK, conv_out_channels=NECK)
        config.test_cfg.rpn.max_per_img = 8
    elif kind == "sem_fpn":
        config.neck.update(in_channels=[WIDTH] * 4, out_channels=WIDTH)
        config.decode_head.update(in_channels=[WIDTH] * 4, channels=FPN)
    else:
        config.decode_head.update(in_channels=[WIDTH] * 4, channels=UPER)
        config.auxiliary_head.update(in_channels=WIDTH, channels=AUX)


HEADS = {"mask_rcnn": mask_rcnn, "sem_fpn": sem_fpn, "upernet": upernet}
NAMES = {
    "mask_rcnn": "coco/tiny_12_p16",
    "sem_fpn": "ade20k/sem_fpn/tiny_12_p16",
    "upernet": "ade20k/upernet/tiny_12_p16",
}


def outputs(model, images):
    """All outputs of the parts of a model for images: scores, boxes, masks, logits."""
    model.eval()
    with torch.no_grad():
        if hasattr(model, "roi_head"):
            from mmdet.structures import DetDataSample

            size = tuple(images.shape[-2:])
            sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
            made = model(images, [sample], mode="tensor")
        else:
            made = [model(images, mode="tensor")]
            if model.with_auxiliary_head:
                made.append(model.auxiliary_head(model.extract_feat(images)))
    return list(tensors(made))


def tensors(nested):
    if isinstance(nested, torch.Tensor):
        yield nested
    else:
        for item in nested:
            yield from tensors(item)


@pytest.fixture(scope="module", params=HEADS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def build(kind):
    """Makes a small model of a published kind with random weights."""
    library = "mmdet" if kind == "mask_rcnn" else "mmseg"
    pytest.importorskip(library, reason=f"{library} is not installed")
    config = Config.fromfile(MODELS / f"{kind}.py").model
    config.backbone.variant = VARIANT
    shrink(config, kind)
    registry = importlib.import_module(f"{library}.registry").MODELS

    def make():
        with DefaultScope.overwrite_default_scope(library):
            return registry.build(config)

    return make


@pytest.fixture(scope="module")
def saved(kind, build, reference, tmp_path_factory):
    """A file as the old libraries wrote it, with the class attention that some backbones carried; and its model."""
    model = randomise(build(), seed=3)
    state = model.state_dict()
    keys = reference("checkpoint_keys")[VARIANT]
    entries = {f"backbone.{name}": tuple(shape) for name, shape in keys["dense"].items()} | HEADS[kind]()
    assert {name: tuple(value.shape) for name, value in state.items()} == entries
    left_out = {name: shape for name, shape in keys["classifier"].items() if name.startswith("cls_")}
    assert len(left_out) > 20
    weights = OrderedDict(state)
    weights.update({f"backbone.{name}": torch.ones(shape) for name, shape in left_out.items()})
    weights._metadata = state._metadata
    palette = [[120, 120, 120], [180, 120, 120]]
    content = {
        "meta": {
            "env_info": "Python: 3.7.10",
            "mmdet_version": "2.11.0+",
            "mmcv_version": "1.3.9",
            "config": "model = dict(type='MaskRCNN')\n",
            "CLASSES": ("wall", "building"),
            "PALETTE": np.array(palette, dtype=np.uint8) if kind == "upernet" else palette,
            "seed": None,
            "epoch": 36,
            "iter": 263880,
            "time": "Mon May 24 12:00:00 2021",
            "hook_msgs": {"best_score": np.float64(0.45)},
        },
        "state_dict": weights,
        "optimizer": {
            "state": {0: {"step": 263880, "exp_avg": torch.zeros(3)}},
            "param_groups": [{"lr": 1e-6, "betas": (0.9, 0.999), "params": [0]}],
        },
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 1312}},
    }
    path = tmp_path_factory.mktemp(kind) / "published.pth"
    torch.save(content, path)
    return SimpleNamespace(path=path, model=model)


def check_filled(model, other):
    """Checks that a model has the weights of another model and gives the same outputs for an image."""
    own, expected = model.state_dict(), other.state_dict()
    assert own.keys() == expected.keys()
    for name, value in own.items():
        assert torch.equal(value, expected[name]), name
    batch = random_images(1, 3, 64, 96)
    made = outputs(model, batch)
    assert len(made) > 0
    for got, wanted in zip(made, outputs(other, batch), strict=True):
        assert wanted.isfinite().all()
        assert_close(got, wanted, 1e-6)


def test_the_file_fills_the_model_and_every_entry_is_used(build, saved):
    model = build()
    # With strict, an unknown or missing entry raises an error.
    read = load_checkpoint(model, str(saved.path), map_location="cpu", strict=True)
    check_filled(model, saved.model)
    assert read["meta"]["CLASSES"] == ("wall", "building")
    assert read["meta"]["hook_msgs"]["best_score"] == 0.45


def test_the_name_of_the_weights_is_enough(kind, build, saved, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / zoo.ZOO[NAMES[kind]].url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    path.symlink_to(saved.path)
    model = build()
    load_checkpoint(model, f"xcit://{NAMES[kind]}", map_location="cpu", strict=True)
    check_filled(model, saved.model)


def test_the_backbone_is_loaded_out_of_the_file(saved):
    backbone = XCiT(VARIANT)
    report = load_weights(backbone, saved.path)
    assert report.missing == report.unexpected == []
    assert {name.split(".")[0] for name in report.left_out} == {"cls_token", "cls_attn_blocks"}
    assert (
        matching_names(saved.model.backbone, backbone.state_dict()) == set(report.matched) == set(backbone.state_dict())
    )
