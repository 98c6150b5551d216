"""A segmentor's logits and labels from windows of its levels are those of the complete image."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
import xcit_dense.mm  # noqa: F401  isort: skip
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from tests.helpers.models import raises_user_error, random_images, randomise
from tests.helpers.tiny import tiny_config
from xcit_dense import deploy, stream
from xcit_dense.mm.streaming.segmentor import map_logits, read_labels
from xcit_dense.rasters.window import blocks_of

HEADS = ("sem_fpn", "upernet")
of_each_head = pytest.mark.parametrize("head", HEADS)


class Unread:
    """Levels that must not be read."""

    shapes = ((16, 16, 16), (16, 8, 8), (16, 4, 4), (16, 2, 2))


def make_model(head, edit=lambda model: None, deployed=False):
    """A tiny segmentor with random weights. ``edit`` changes its config."""
    settings = copy.deepcopy(tiny_config("segmentation", head).model)
    edit(settings)
    init_default_scope("mmseg")
    model = randomise(MODELS.build(settings)).eval()
    return deploy(model) if deployed else model


def logits_of(model, images):
    """What the model computes for the complete image, in the size of the image."""
    with torch.no_grad():
        return model.predict(images)[0].seg_logits.data[None]


def compute_by_windows(model, images, tile):
    """The logits and labels from windows."""
    height, width = images.shape[2:]
    labels = torch.full((height, width), -1)
    with torch.no_grad(), stream(model.backbone, images, strip=3) as levels:
        made = map_logits(model, levels, height, width)
        logits = torch.zeros(1, made.channels, height, width)
        for one in blocks_of(height, width, tile):
            rows, columns = one.slices
            logits[:, :, rows, columns] = made.read(one)
            labels[rows, columns] = read_labels(model, made, one)
    return logits, labels


def assert_streams_exactly(model, images, tile):
    """Logits differ by less than 1e-4 of their deviation. Labels are equal where the two best logits are not equal."""
    logits, labels = compute_by_windows(model, images, tile)
    complete = logits_of(model, images)
    assert (logits - complete).abs().max() < 1e-4 * complete.std(correction=0)
    best = complete[0].topk(2, dim=0).values
    clear = best[0] - best[1] > 1e-4
    assert clear.float().mean() > 0.95
    assert torch.equal(labels[clear], complete[0].argmax(dim=0)[clear])


@of_each_head
@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize(("size", "tile"), [((97, 150), 32), ((64, 64), 64), ((210, 75), 100), ((33, 8), 7)])
def test_logits_and_labels_are_those_of_the_complete_image(head, size, tile, deployed):
    assert_streams_exactly(make_model(head, deployed=deployed), random_images(1, 3, *size), tile)


@of_each_head
@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("height", [1, 15, 63, 129, 300])
@pytest.mark.parametrize("width", [5, 64, 131, 257])
@pytest.mark.parametrize("tile", [24, 61, 512])
def test_logits_and_labels_are_those_of_the_complete_image_at_any_size(head, height, width, tile):
    assert_streams_exactly(make_model(head), random_images(1, 3, height, width), tile)


@of_each_head
def test_corners_may_be_aligned(head):
    def edit(settings):
        settings.decode_head.align_corners = True

    assert_streams_exactly(make_model(head, edit), random_images(1, 3, 77, 90), 40)


@pytest.mark.parametrize(("library", "head"), [("FPNHead", "sem_fpn"), ("UPerHead", "upernet")])
def test_the_heads_of_the_library_are_computed_too(library, head):
    def edit(settings):
        settings.decode_head.type = library

    assert_streams_exactly(make_model(head, edit), random_images(1, 3, 90, 61), 40)


def test_a_neck_may_start_at_a_later_level_and_enlarge_smoothly():
    def edit(settings):
        settings.neck.update(start_level=1, num_outs=3, upsample_cfg={"mode": "bilinear", "align_corners": False})
        settings.decode_head.update(in_index=[0, 1, 2], in_channels=[64] * 3, feature_strides=[8, 16, 32])

    assert_streams_exactly(make_model("sem_fpn", edit), random_images(1, 3, 90, 61), 40)


def use_vt_fpn(settings):
    settings.neck = {"type": "VTFPN", "in_channels": [16] * 4, "out_channels": 64, "token_channels": 32}


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize(("size", "tile"), [((97, 150), 32), ((1100, 40), 300), ((33, 8), 7)])
def test_vt_fpn_reads_tokens_of_the_complete_levels(size, tile, deployed):
    model = make_model("sem_fpn", use_vt_fpn, deployed)
    assert_streams_exactly(model, random_images(1, 3, *size), tile)


def test_a_part_of_vt_fpn_with_a_hook_is_refused_by_name():
    model = make_model("sem_fpn", use_vt_fpn)
    model.neck.tokenizers[2].score.register_forward_hook(lambda *_: None)
    with raises_user_error("model.neck.tokenizers.2.score", "Linear", "hook", "--window"):
        map_logits(model, Unread(), 64, 64)


def test_vt_fpn_in_training_mode_is_refused_by_name():
    model = make_model("sem_fpn", use_vt_fpn)
    model.neck.train()
    with raises_user_error("model.neck.laterals.0.1", "batch norm in training mode", "eval()"):
        map_logits(model, Unread(), 64, 64)


def test_a_model_of_two_classes_with_one_logit_takes_its_threshold():
    def edit(settings):
        settings.decode_head.update(num_classes=2, out_channels=1, threshold=0.4)
        settings.decode_head.loss_decode.use_sigmoid = True

    model, images = make_model("sem_fpn", edit), random_images(1, 3, 70, 50)
    _, labels = compute_by_windows(model, images, 32)
    with torch.no_grad():
        expected = model.predict(images)[0].pred_sem_seg.data[0]
    assert set(labels.unique().tolist()) == {0, 1}
    assert (labels == expected).float().mean() > 0.999


def set_mode(model):
    model.test_cfg.mode = "slide"


def add_hook(model):
    model.decode_head.scale_heads[1][0].conv.register_forward_hook(lambda *_: None)


REFUSED = {
    "slide": (set_mode, ["test_cfg.mode", "slide", "--window"]),
    "hook": (add_hook, ["scale_heads.1.0.conv", "hook", "--window"]),
    "training": (lambda m: m.neck.train(), ["batch norm in training mode", "model.neck", "eval()"]),
    "padding": (lambda m: setattr(m.data_preprocessor, "test_cfg", {"size_divisor": 32}), ["pads", "size_divisor"]),
    "enlargement": (lambda m: m.neck.upsample_cfg.update(scale_factor=2), ["model.neck", "scale_factor"]),
    "activation": (
        lambda m: setattr(m.decode_head.scale_heads[0][0], "activate", nn.Softmax2d()),
        ["scale_heads.0.0.activate", "Softmax2d"],
    ),
    "stride": (
        lambda m: setattr(m.neck.fpn_convs[2].conv, "stride", (2, 2)),
        ["model.neck.fpn_convs.2.conv", "changes the size"],
    ),
    "model": (lambda m: m.register_forward_hook(lambda *_: None), ["The model", "hook"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_the_complete_map_is_refused_by_name(name):
    change, words = REFUSED[name]
    model = make_model("sem_fpn")
    change(model)
    with raises_user_error(*words):
        map_logits(model, Unread(), 64, 64)


def test_a_group_norm_is_refused_by_name():
    def edit(settings):
        settings.decode_head.norm_cfg = {"type": "GN", "num_groups": 2}

    with raises_user_error("model.decode_head.scale_heads.0.0.gn", "GroupNorm", "--window"):
        map_logits(make_model("sem_fpn", edit), Unread(), 64, 64)


@pytest.mark.parametrize(("head", "part"), [("segformer", "FusedSegformerHead"), ("fcn", "FusedFCNHead")])
def test_other_heads_are_refused_by_name(head, part):
    with raises_user_error("model.decode_head", part, "--window"):
        map_logits(make_model(head), Unread(), 64, 64)
