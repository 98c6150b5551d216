"""On a GPU, backbones, operators, complete models and commands give what they give on the CPU."""

import copy
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import distributed, nn

from tests.helpers.models import assert_close, random_images, randomise, tiny_coat, tiny_xcit
from tests.helpers.runs import read_training_log, short_run
from tests.helpers.tiny import CONFIGS, write_work_dir
from xcit_dense import TokenPyramid, XCiT, deploy, stream
from xcit_dense.models.xca import XCA
from xcit_dense.rasters.window import Window
from xcit_dense.streaming.shard import sharded_levels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DEVICE = "cuda"
SIZE = (150, 203)
FORMS = ("literal", "covariance")


@pytest.fixture(autouse=True)
def exact_convolutions():
    """Convolutions of fp32 compute in fp32. PyTorch's default is TF32, which has three digits."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_gpu(value):
    """Copies tensors, modules, and lists of both to the GPU."""
    if isinstance(value, torch.Tensor):
        copied = value.detach().to(DEVICE)
        return copied.requires_grad_(value.requires_grad)
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(DEVICE)
    return [on_gpu(one) for one in value]


def assert_same(found, expected, tolerance=1e-4):
    """Compares lists of tensors of two devices."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        one, other = (tensor.detach().cpu().float() for tensor in (one, other))
        if other.numel() == 1:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=0)
        else:
            assert_close(one, other, tolerance)


def assert_same_gradients(found, expected, tolerance=1e-3):
    """Compares the gradients of two devices as one tensor.

    Some gradients are 0 by definition, for example of a bias before a batch norm. Their values are only rounding.
    """
    joined = [torch.cat([part.detach().cpu().float().flatten() for part in parts]) for parts in (found, expected)]
    assert_close(*joined, tolerance)


def levels_of(backbone, images, **autocast):
    """Computes levels without gradients."""
    with torch.no_grad(), torch.autocast(DEVICE, enabled=bool(autocast), **autocast):
        return backbone(images)


def gradients_of(backbone, images, **autocast):
    """Returns the gradients of all parameters for a loss that is smooth."""
    with torch.autocast(images.device.type, enabled=bool(autocast), **autocast):
        levels = backbone(images)
    return torch.autograd.grad(sum(level.float().square().mean() for level in levels), list(backbone.parameters()))


def with_form(backbone, form):
    """Forces a form of XCA."""
    for module in backbone.modules():
        if isinstance(module, XCA):
            module.form = form
    return backbone


# Backbones

BACKBONES = {
    "patches of 8": partial(tiny_xcit),
    "patches of 16": partial(tiny_xcit, patch_size=16, out_strides=(4, 8, 16, 32, 64), out_indices=(0, 1, 2, 3, 3)),
    "nano": lambda: randomise(XCiT("nano_12_p16")),
    "CoaT": tiny_coat,
    "TokenPyramid": lambda: randomise(TokenPyramid("deit_tiny_patch16_224")),
}
of_each_backbone = pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)


@of_each_backbone
@pytest.mark.parametrize("batch", [1, 3])
def test_levels_are_those_of_the_cpu(make, batch):
    backbone, images = make().eval(), random_images(batch, 3, *SIZE)
    assert_same(levels_of(on_gpu(backbone), on_gpu(images)), levels_of(backbone, images))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_both_forms_of_attention_are_those_of_the_cpu(form, batch):
    backbone, images = with_form(tiny_xcit(), form), random_images(batch, 3, *SIZE)
    assert_same(levels_of(on_gpu(backbone.eval()), on_gpu(images)), levels_of(backbone, images))
    backbone.train()
    assert_same_gradients(gradients_of(on_gpu(backbone), on_gpu(images)), gradients_of(backbone, images))


@of_each_backbone
def test_gradients_are_those_of_the_cpu(make):
    backbone, images = make().train(), random_images(2, 3, *SIZE)
    assert_same_gradients(gradients_of(on_gpu(backbone), on_gpu(images)), gradients_of(backbone, images))


def test_recomputed_blocks_give_the_same_gradients():
    backbone, images = tiny_xcit(with_cp=True).train(), random_images(2, 3, *SIZE)
    assert_same_gradients(gradients_of(on_gpu(backbone), on_gpu(images)), gradients_of(backbone, images))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_half_precision_only_rounds_the_levels(form, dtype):
    backbone = with_form(randomise(XCiT("nano_12_p16")).eval(), form)
    images, tolerance = random_images(2, 3, *SIZE), 128 * torch.finfo(dtype).eps
    expected = levels_of(backbone, images)
    assert_same(levels_of(on_gpu(backbone), on_gpu(images), dtype=dtype), expected, tolerance)
    assert_same(levels_of(on_gpu(backbone).to(dtype), on_gpu(images).to(dtype)), expected, tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_only_rounds_the_gradients(dtype):
    backbone, images = randomise(XCiT("nano_12_p16", norm_eval=True)).train(), random_images(2, 3, *SIZE)
    found = gradients_of(on_gpu(backbone), on_gpu(images), dtype=dtype)
    expected = gradients_of(backbone, images)
    one, other = (torch.cat([part.detach().cpu().float().flatten() for part in parts]) for parts in (found, expected))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99


@of_each_backbone
def test_a_deployed_backbone_has_the_same_levels(make):
    backbone, images = make().eval(), random_images(2, 3, *SIZE)
    expected = levels_of(backbone, images)
    deployed = deploy(on_gpu(backbone))
    for _ in range(2):  # the second call uses what the first call keeps
        assert_same(levels_of(deployed, on_gpu(images)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_torch_compile_gives_the_same_levels_and_gradients(form):
    backbone, images = on_gpu(with_form(tiny_xcit(), form)), on_gpu(random_images(2, 3, *SIZE))
    for training in (False, True):
        backbone.train(training)
        expected = gradients_of(backbone, images) if training else levels_of(backbone, images)
        compiled = torch.compile(backbone, dynamic=False)
        if training:
            levels = compiled(images)
            loss = sum(level.square().mean() for level in levels)
            assert_same_gradients(torch.autograd.grad(loss, list(backbone.parameters())), expected)
        else:
            assert_same(levels_of(compiled, images), expected)


def test_a_training_lowers_the_loss():
    torch.manual_seed(0)
    backbone = XCiT("nano_12_p16").to(DEVICE).train()
    head = nn.Conv2d(128, 4, 1).to(DEVICE)
    images, labels = on_gpu(random_images(4, 3, 64, 64)), torch.arange(4, device=DEVICE)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=5e-4)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = head(backbone(images)[-1]).mean((2, 3))
            loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# Large images


def test_streamed_levels_are_those_of_the_complete_image():
    backbone, image = on_gpu(tiny_xcit(patch_size=16).eval()), on_gpu(random_images(1, 3, 330, 203))
    expected = levels_of(backbone, image)
    with stream(backbone, image, strip=3) as levels:
        found = [levels.read(number, Window(0, 0, *level.shape[2:])) for number, level in enumerate(expected)]
    assert_same(found, expected)


@pytest.fixture
def group(tmp_path):
    """A group of this one process, which communicates through NCCL."""
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_shard_over_nccl_has_the_levels_and_gradients_of_the_image():
    backbone, image = on_gpu(tiny_xcit(norm_eval=True).train()), on_gpu(random_images(1, 3, *SIZE))
    levels = sharded_levels(backbone, image).levels
    assert_same(levels, backbone(image))
    found = torch.autograd.grad(sum(level.square().mean() for level in levels), list(backbone.parameters()))
    assert_same_gradients(found, gradients_of(backbone, image))


@pytest.mark.usefixtures("group")
def test_a_segmentor_over_nccl_has_the_loss_and_gradients_of_the_image():
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    from tests.mm.streaming.sharded_training import make_batch, make_model

    results = []
    for kind in ("ShardedEncoderDecoder", "FusedEncoderDecoder"):
        model = make_model(kind, "sem_fpn", {}, {"dropout_ratio": 0.0}).to(DEVICE)
        images, samples = make_batch((2, 3, 133, 50), 5)
        loss, _ = model.parse_losses(model.loss(images.to(DEVICE), [sample.to(DEVICE) for sample in samples]))
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert_same_gradients(results[0][1], results[1][1])


# Operators


@pytest.fixture(scope="module")
def ops():
    """``mmcv.ops`` over the stand-in."""
    pytest.importorskip("mmcv", reason="mmcv is not installed")
    from xcit_dense.mm.patches import mmcv_ext

    mmcv_ext.install()
    import mmcv.ops

    return mmcv.ops


def draw(*shape, low=None, high=None):
    """Random numbers that get a gradient, or with bounds, numbers without a gradient."""
    if low is None:
        return random_images(*shape).requires_grad_()
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def boxes(count=40, side=40):
    """Boxes (count, 4) that overlap."""
    near = draw(count, 2, low=0, high=side)
    return torch.cat([near, near + draw(count, 2, low=2, high=side)], dim=1)


def regions(count=40, batch=2):
    """Regions (count, 5): the index of the image and a box."""
    return torch.cat([torch.arange(count)[:, None] % batch, boxes(count)], dim=1)


def turned(count=30):
    """Rotated boxes (count, 5)."""
    sides, angles = draw(count, 2, low=2, high=20), draw(count, 1, low=-3, high=3)
    return torch.cat([draw(count, 2, low=5, high=30), sides, angles], dim=1)


def attend(ops, value, locations, weights):
    """Multi-scale deformable attention over two levels."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor([(4, 5), (2, 3)], device=value.device)
    starts = torch.tensor([0, 20], device=value.device)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def softmax_weights(batch, channels, height, width):
    return draw(batch, channels, height, width).detach().softmax(1).requires_grad_()


SMOOTH = {
    "roi_align": (
        lambda ops, x, rois: ops.roi_align(x, rois, (7, 7), 0.5, 0, "avg", True),
        draw(2, 16, 24, 32),
        regions(),
    ),
    "roi_align, maximum": (
        lambda ops, x, rois: ops.roi_align(x, rois, (3, 3), 0.5, 2, "max", True),
        draw(2, 4, 24, 32),
        regions(),
    ),
    "roi_pool": (lambda ops, x, rois: ops.roi_pool(x, rois, (3, 3), 0.5), draw(2, 4, 24, 32), regions()),
    "deform_roi_pool": (
        lambda ops, x, rois, offset: ops.deform_roi_pool(x, rois, offset, (3, 3), 0.5, 2, 0.1),
        draw(2, 4, 24, 32),
        regions(),
        draw(40, 2, 3, 3),
    ),
    "roi_align_rotated": (
        lambda ops, x, rois: ops.roi_align_rotated(x, rois, (3, 3), 0.5, 2, True),
        draw(2, 4, 24, 32),
        torch.cat([torch.arange(30)[:, None] % 2, turned()], dim=1),
    ),
    "deform_conv": (
        lambda ops, x, offset, weight: ops.deform_conv2d(x, offset, weight, 1, 1),
        draw(2, 4, 9, 8),
        draw(2, 18, 9, 8),
        draw(6, 4, 3, 3),
    ),
    "modulated_deform_conv": (
        lambda ops, *tensors: ops.modulated_deform_conv2d(*tensors, 1, 1, 1, 1, 1),
        draw(2, 4, 9, 8),
        draw(2, 18, 9, 8),
        draw(2, 9, 9, 8),
        draw(6, 4, 3, 3),
        draw(6),
    ),
    "carafe": (
        lambda ops, x, masks: ops.carafe(x, masks, 5, 1, 2),
        draw(2, 4, 6, 5),
        softmax_weights(2, 25, 12, 10),
    ),
    "psamask": (lambda ops, x: ops.PSAMask("collect", (3, 3))(x), draw(2, 9, 6, 5)),
    "sigmoid_focal_loss": (
        lambda ops, x, target: ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, "none"),
        draw(30, 5),
        torch.arange(30) % 6,
    ),
    "softmax_focal_loss": (
        lambda ops, x, target: ops.softmax_focal_loss(x, target, 2.0, 0.25, None, "sum"),
        draw(30, 5),
        torch.arange(30) % 5,
    ),
    "ms_deform_attn": (
        attend,
        draw(2, 26, 2, 4),
        draw(2, 7, 2, 2, 3, 2, low=-0.2, high=1.2).requires_grad_(),
        draw(2, 7, 2, 2, 3, low=0, high=1).requires_grad_(),
    ),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_operators_and_their_gradients_are_those_of_the_cpu(ops, name):
    function, *operands = SMOOTH[name]
    results = []
    for given in (on_gpu(operands), operands):
        output = function(ops, *given)
        slope = random_images(*output.shape).to(output.device)
        inputs = [one for one in given if one.requires_grad]
        results.append([output, *torch.autograd.grad(output, inputs, slope)])
    assert results[0][0].device.type == DEVICE
    assert_same(*results)


CHOICES = {
    "nms": lambda ops, corners, rotated, scores: ops.nms(corners, scores, 0.4)[1],
    "batched_nms": lambda ops, corners, rotated, scores: ops.batched_nms(
        corners, scores, torch.arange(len(scores), device=scores.device) % 3, {"type": "nms", "iou_threshold": 0.4}
    )[1],
    "soft_nms": lambda ops, corners, rotated, scores: ops.soft_nms(corners, scores, method="gaussian")[0],
    "nms_match": lambda ops, corners, rotated, scores: torch.cat(
        [torch.as_tensor(group) for group in ops.nms_match(torch.cat([corners, scores[:, None]], 1), 0.4)]
    ),
    "bbox_overlaps": lambda ops, corners, rotated, scores: ops.bbox_overlaps(corners, corners),
    "box_iou_rotated": lambda ops, corners, rotated, scores: ops.box_iou_rotated(rotated, rotated),
    "nms_rotated": lambda ops, corners, rotated, scores: ops.nms_rotated(rotated, scores[:30], 0.2)[1],
}


@pytest.mark.parametrize("name", CHOICES)
def test_boxes_are_chosen_as_on_the_cpu(ops, name):
    operands = boxes(200), turned(), draw(200, low=0.1, high=1)
    found, expected = (CHOICES[name](ops, *given).cpu().float() for given in (on_gpu(operands), operands))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# Complete models

DETECTORS = ("mask_rcnn", "cascade_mask_rcnn", "retinanet", "rtmdet")
SEGMENTORS = ("sem_fpn", "upernet", "segformer", "fcn", "deeplabv3plus")
QUERIES = {"dino": "detection", "mask2former": "segmentation"}


def make_model(task, head):
    """Makes the model of a config for the shapes data set, with random weights, and a batch for it."""
    pytest.importorskip("mmdet", reason="MMDetection is not installed")
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    import xcit_dense.mm  # noqa: F401  isort: skip
    from xcit_dense.mm.benchmark.contenders import build, make_weights, prepare_config
    from xcit_dense.mm.config.load import load_config

    config = prepare_config(load_config(CONFIGS / task / f"{head}_xcit_n12_p8_shapes.py"))
    model = build(config)
    model.load_state_dict(make_weights(config))
    return model


def make_samples(task, head, device):
    """Makes random images with labels."""
    from xcit_dense.mm.benchmark.samples import make_batch

    batch = make_batch(task == "segmentation", 3, (64, 96), 2, device)
    for sample in batch.samples if head == "rtmdet" else ():
        del sample.gt_instances.masks  # RTMDet reads only boxes
    return batch


def conditions(device, dtype="fp32", train=False):
    from tests.helpers.model_race import model_race_options

    return model_race_options(device=device, dtype=dtype, train=train)


@pytest.mark.parametrize(
    ("task", "head"), [*(("detection", head) for head in DETECTORS), *(("segmentation", head) for head in SEGMENTORS)]
)
@pytest.mark.parametrize("train", [False, True], ids=["prediction", "training"])
def test_models_compute_what_they_compute_on_the_cpu(task, head, train):
    from xcit_dense.mm.benchmark.steps import outcome

    model = make_model(task, head).train(train)
    for module in model.modules():  # the devices draw different numbers
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    found, expected = (
        outcome(
            on_gpu(model) if device == DEVICE else model,
            make_samples(task, head, device),
            conditions(device, train=train),
        )
        for device in (DEVICE, "cpu")
    )
    assert found.keys() == expected.keys()
    for name in expected:
        if name.startswith("gradients") and (task == "detection" or head == "deeplabv3plus"):
            # The devices sample other anchors and regions. DeepLab's batch norm of two values gives -1 and 1, so that
            # its gradients are only rounding.
            continue
        # Rounding changes signs before ReLUs, and so their gradients.
        assert_same(found[name], expected[name], 5e-2 if name.startswith("gradients") else 1e-3)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("task", "head"),
    [
        *(("detection", head) for head in DETECTORS),
        *(("segmentation", head) for head in SEGMENTORS),
        *((task, head) for head, task in QUERIES.items()),
    ],
)
def test_models_learn_a_batch_and_predict(task, head, dtype):
    from xcit_dense.mm.benchmark.steps import lose, predict

    torch.manual_seed(0)
    model, batch = make_model(task, head).to(DEVICE), make_samples(task, head, DEVICE)
    model.init_weights()
    options = conditions(DEVICE, dtype)
    with torch.no_grad():
        for found in predict(model.eval(), batch, options):
            assert "pred_instances" in found or "pred_sem_seg" in found
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = lose(model, batch, options)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    if head != "rtmdet":  # whose assignment of boxes changes with each step
        assert min(losses[1:]) < losses[0]


# Commands

PREDICT = "-m", "xcit_dense", "predict"


@pytest.fixture(scope="module")
def work_dirs(tmp_path_factory):
    pytest.importorskip("mmdet", reason="MMDetection is not installed")
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed")
    return {
        task: write_work_dir(task, tmp_path_factory.mktemp("runs") / task) for task in ("detection", "segmentation")
    }


def write_scene(path, size):
    """Writes a smooth image with values between 0 and 255."""
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.mark.parametrize(
    "options", [(), ("--window", 64, "--overlap", 16), ("--stream",)], ids=["", "window", "stream"]
)
def test_predicted_labels_are_those_of_the_cpu(work_dirs, python, tmp_path, options):
    from PIL import Image

    scene, maps = write_scene(tmp_path / "scene.png", (170, 230)), []
    for number, device in enumerate(("cpu", DEVICE)):
        out = tmp_path / f"out{number}"
        # A process of its own, because --device cpu hides the GPUs from the process.
        python(*PREDICT, work_dirs["segmentation"], scene, *options, "--device", device, "--out", out)
        (path,) = [path for path in (out / "labels").iterdir() if path.suffix in (".png", ".tif")]
        maps.append(np.asarray(Image.open(path)))
    assert (maps[0] == maps[1]).mean() > 0.999


def test_a_shard_over_nccl_has_the_labels_of_one_process(work_dirs, python, tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="the extra [large] is not installed")
    scene, maps = write_scene(tmp_path / "scene.png", (170, 230)), []
    torchrun = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 1
    for number, start in enumerate(((), torchrun)):
        out = tmp_path / f"out{number}"
        shard = ["--shard"] if start else []
        python(*start, *PREDICT, work_dirs["segmentation"], scene, "--stream", *shard, "--device", DEVICE, "--out", out)
        with rasterio.open(out / "labels" / "scene.tif") as file:
            maps.append(file.read(1))
    assert (maps[0] == maps[1]).mean() > 0.999


@pytest.mark.parametrize("options", [(), ("--window", 64, "--overlap", 16)], ids=["", "window"])
def test_predicted_objects_are_those_of_the_cpu(work_dirs, python, tmp_path, options):
    scene, found = write_scene(tmp_path / "scene.png", (170, 230)), []
    for number, device in enumerate(("cpu", DEVICE)):
        out = tmp_path / f"out{number}"
        common = "--score-thr", 0, "--device", device, "--out", out
        python(*PREDICT, work_dirs["detection"], scene, *options, *common)
        found.append(json.loads((out / "results.json").read_text()))
    assert len(found[0]) == len(found[1]) > 0
    scores = [sorted(one["score"] for one in results) for results in found]
    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "amp"])
@pytest.mark.parametrize("config", ["detection/mask_rcnn", "segmentation/sem_fpn", "segmentation/upernet"])
def test_the_demo_configs_train_and_are_tested(shapes, python, tmp_path, config, amp):
    path, work = CONFIGS / f"{config}_xcit_n12_p8_shapes.py", tmp_path / "work"
    options = short_run(20, **{"train_dataloader.batch_size": 4, "train_dataloader.num_workers": 0})
    train = ["-m", "xcit_dense", "train", path, "--data-root", shapes, "--work-dir", work, "--device", DEVICE]
    python(*train, *(["--amp"] if amp else []), *options)
    losses = [record["loss"] for record in read_training_log(work)]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    test = ["-m", "xcit_dense", "test", path, work, "--data-root", shapes, "--device", DEVICE]
    python(*test, "--work-dir", tmp_path / "tested", "--out", tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())
