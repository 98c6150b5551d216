"""The learning curve, from the logs that MMEngine writes, and the check that weights fill the model."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

from tests.helpers.models import raises_user_error, random_images, tiny_xcit
from xcit_dense.mm.hooks.learning_curve import draw_learning_curve, read_curves

NAN = float("nan")


def train(step, loss, **more):
    return {
        "base_lr": 1e-4,
        "lr": 1e-4,
        "data_time": 0.01,
        "loss": loss,
        "time": 0.5,
        "iter": step,
        "step": step,
    } | more


def val(step, **metrics):
    return {f"coco/{name}": value for name, value in metrics.items()} | {"data_time": 0.0, "time": 0.2, "step": step}


@pytest.fixture
def log(tmp_path):
    """Writes one part of a run into the directory that it returns."""

    def write(timestamp, *records):
        path = tmp_path / timestamp / "vis_data" / "scalars.json"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return tmp_path

    return write


def test_training_and_metrics_are_told_apart(log):
    curves = read_curves(log("1", train(10, 2.0, loss_cls=1.5), train(20, 1.0), val(20, bbox_mAP=0.25)))
    assert curves.train["loss"] == [(10, 2.0), (20, 1.0)]
    assert curves.train["loss_cls"] == [(10, 1.5)]
    assert curves.train["lr"] == [(10, 1e-4), (20, 1e-4)]
    assert curves.val == {"coco/bbox_mAP": [(20, 0.25)]}


@pytest.mark.parametrize("steps", [(1, 2), (0, 0), (20, 40)], ids=["epochs", "no steps", "iterations"])
def test_a_metric_belongs_to_the_iteration_trained_last(log, steps):
    records = [train(20, 2.0), val(steps[0], bbox_mAP=0.1), train(40, 1.0), val(steps[1], bbox_mAP=0.2)]
    assert read_curves(log("1", *records)).val["coco/bbox_mAP"] == [(20, 0.1), (40, 0.2)]


def test_a_resumed_run_replaces_what_it_repeats(log):
    log("20260101_000000", *[train(step, 9.0) for step in (10, 20, 30)], val(1, bbox_mAP=0.9))
    curves = read_curves(log("20260101_010000", *[train(step, 1.0) for step in (20, 30, 40)], val(1, bbox_mAP=0.1)))
    assert curves.train["loss"] == [(10, 9.0), (20, 1.0), (30, 1.0), (40, 1.0)]
    assert curves.val["coco/bbox_mAP"] == [(30, 0.9), (40, 0.1)]


def test_a_resumed_run_that_validates_first_keeps_the_metrics_before_it(log):
    log("20260101_000000", train(10, 9.0), val(1, bbox_mAP=0.1), train(20, 9.0), val(2, bbox_mAP=0.2))
    curves = read_curves(log("20260101_010000", val(2, bbox_mAP=0.3), train(30, 1.0)))
    assert curves.val["coco/bbox_mAP"] == [(10, 0.1), (20, 0.3)]


def test_a_line_cut_short_by_a_kill_or_a_full_disk_is_passed_over(log):
    (work_dir,) = {log("20260101_000000", train(10, 9.0)), log("20260101_010000", train(20, 1.0))}
    with (work_dir / "20260101_000000/vis_data/scalars.json").open("a") as file:
        file.write('{"lr": 1e-4, "loss": 8.')
    assert read_curves(work_dir).train["loss"] == [(10, 9.0), (20, 1.0)]


def test_text_and_clocks_are_no_curves(log):
    curves = read_curves(log("1", train(10, 2.0, epoch=1, memory_unit="MB")))
    assert curves.train.keys() == {"base_lr", "lr", "loss"}


def test_a_run_without_logs_has_no_curves(tmp_path):
    curves = read_curves(tmp_path)
    assert curves.train == curves.val == {}


def check_picture(path, work_dir):
    assert path == work_dir / "learning_curve.png"
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, "blank"
    assert [file.name for file in work_dir.iterdir() if file.is_file()] == ["learning_curve.png"]
    return pixels


def test_the_picture_shows_loss_rate_and_metrics(log):
    records = [train(10, 2.0), train(20, 1.0), val(1, bbox_mAP=0.1, segm_mAP_50=0.2), train(30, 0.5)]
    work_dir = log("1", *records)
    pixels = check_picture(draw_learning_curve(work_dir), work_dir)
    without_metrics = log("2", train(0, 1.0))
    (work_dir / "1" / "vis_data" / "scalars.json").unlink()
    assert len(pixels) > len(check_picture(draw_learning_curve(without_metrics), work_dir))


@pytest.mark.parametrize(
    "records",
    [
        [train(10, 2.0)],
        [train(10, NAN), train(20, NAN), val(1, bbox_mAP=NAN)],
        [train(10, 2.0), train(20, float("inf")), val(1, bbox_mAP=-1.0)],
        [train(10, 2.0), {"mIoU": 30.5, "step": 10}],
        [train(10, 2.0), {"step": 10}],
    ],
    ids=["no metrics", "not a number", "infinite", "segmentation", "empty metrics"],
)
def test_any_log_makes_a_picture(log, records):
    work_dir = log("1", *records)
    check_picture(draw_learning_curve(work_dir), work_dir)


def test_nothing_logged_makes_no_picture(log):
    assert draw_learning_curve(log("1")) is None
    assert draw_learning_curve(log("2", val(0, bbox_mAP=0.5))) is None
    assert not list(log("3").glob("*.png"))


def test_the_hook_draws_after_validation_and_says_where_after_training(log, caplog):
    hook = HOOKS.build({"type": "LearningCurveHook"})
    work_dir = log("1", train(10, 2.0))
    runner = SimpleNamespace(work_dir=str(work_dir), logger=logging.getLogger("test_hooks"))
    picture = work_dir / "learning_curve.png"
    hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.5})
    check_picture(picture, work_dir)
    with caplog.at_level(logging.INFO):
        hook.after_train(runner)
    assert str(picture) in caplog.text


def test_a_picture_that_cannot_be_written_ends_no_training(log, caplog):
    hook = HOOKS.build({"type": "LearningCurveHook"})
    work_dir = log("1", train(10, 2.0))
    picture = work_dir / "learning_curve.png"
    picture.mkdir()
    runner = SimpleNamespace(work_dir=str(work_dir), logger=logging.getLogger("test_hooks"))
    hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.5})
    hook.after_train(runner)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert f"{picture} cannot be written" in caplog.text
    assert not [path for path in work_dir.rglob("*") if "part" in path.name]


# Weights that do not fill the model ---------------------------------------------------------------------------------


class Model(BaseModel):
    """A backbone with a neck and a head that learns to say zero."""

    def __init__(self, backbone, classes=3):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(nn.Conv2d(16, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, classes)

    def forward(self, inputs, mode="tensor"):
        x = self.head(self.neck(self.backbone(torch.stack(list(inputs)))[0]).mean((2, 3)))
        return {"loss": x.square().mean()} if mode == "loss" else [x]


class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"seen": len(results)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a run of a small model whose weights come from a file of these entries."""

    def make(weights, model=None, **options):
        torch.save({"state_dict": weights, "meta": {"epoch": 0, "iter": 0}, "message_hub": {}}, tmp_path / "a.pth")
        loader = {
            "dataset": [{"inputs": torch.ones(3, 32, 32)}] * 2,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
            "batch_size": 2,
            "num_workers": 0,
        }
        settings = {
            "model": model or Model(tiny_xcit(norm_cfg="BN")),
            "work_dir": str(tmp_path / "work"),
            "train_dataloader": loader,
            "train_cfg": {"by_epoch": False, "max_iters": 1},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.0}},
            "test_dataloader": loader,
            "test_cfg": {},
            "test_evaluator": NoMetric(),
            "default_hooks": {"checkpoint": None},
            "custom_hooks": [{"type": "CheckWeightsHook"}],
            "load_from": str(tmp_path / "a.pth"),
            "experiment_name": tmp_path.name,
        }
        return Runner(**{**settings, **options})

    return make


@pytest.fixture
def whole():
    """Weights of a small model, all of them."""
    return dict(Model(tiny_xcit(norm_cfg="BN")).state_dict())


FAULTS = {
    "missing": (
        lambda whole: {k: v for k, v in whole.items() if "head" not in k},
        ["2 missing (head.weight, head.bias)"],
    ),
    "of a trunk": (
        lambda whole: {k: v for k, v in whole.items() if not k.startswith("backbone.fpn")},
        ["missing (backbone.fpn1.0.weight"],
    ),
    "unknown": (lambda whole: {**whole, "decode_head.weight": torch.ones(2)}, ["1 unknown (decode_head.weight)"]),
    "reshaped": (lambda whole: {**whole, "head.bias": torch.ones(5)}, ["1 of another shape (head.bias)"]),
    "of another head": (
        lambda whole: {k.replace("neck", "fpn"): v for k, v in whole.items() if not k.startswith("neck.1.run")},
        ["6 missing (neck.0.weight, neck.0.bias, neck.1.weight, ...)", "4 unknown (fpn.0.weight"],
    ),
}


@pytest.mark.parametrize("start", ["", "module."])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_test_refuses_weights_that_do_not_fill_the_model(run, whole, tmp_path, fault, start):
    change, words = FAULTS[fault]
    runner = run({start + name: value for name, value in change(whole).items()})
    with raises_user_error(tmp_path / "a.pth", "Give a checkpoint of this config's model", *words):
        runner.test()


@pytest.mark.parametrize("start", ["", "module."])
@pytest.mark.parametrize("dialect", ["own", "timm's names", "class attention", "no counters"])
def test_a_test_takes_weights_that_fill_the_model_in_any_dialect(run, whole, dialect, start):
    if dialect == "timm's names":
        whole = {name.replace("pos_embeder", "pos_embed"): value for name, value in whole.items()}
    elif dialect == "class attention":
        whole["backbone.cls_token"] = torch.ones(1, 1, 16)
    elif dialect == "no counters":
        whole = {name: value for name, value in whole.items() if not name.endswith("num_batches_tracked")}
    runner = run({start + name: value for name, value in whole.items()})
    assert runner.test() == {"seen": 1}
    assert torch.equal(runner.model.head.weight, whole["head.weight"])


def test_a_test_refuses_a_backbone_of_another_shape_by_its_file(run, tmp_path):
    with raises_user_error(tmp_path / "a.pth", "depth=5", "depth=4"):
        run(Model(tiny_xcit(norm_cfg="BN", depth=5)).state_dict()).test()


@pytest.fixture
def weights_lines(mm_log, caplog):
    """What a training says of its weights."""

    def read(runner):
        with caplog.at_level(logging.INFO, logger=runner.logger.name):
            runner.logger.addHandler(caplog.handler)
            runner.train()
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Weights: ")]

    return read


def test_a_training_says_in_one_line_what_starts_from_scratch(run, whole, weights_lines, tmp_path):
    weights = {name: value for name, value in whole.items() if not name.startswith(("neck.0", "backbone.fpn"))}
    pyramid = sum(name.startswith("backbone.fpn") for name in whole)
    weights |= {"head.bias": torch.ones(5), "old_head.bias": torch.ones(5)}
    (line,) = weights_lines(run(weights))
    assert f"{pyramid + 2} not in {tmp_path / 'a.pth'} and stay as initialised (neck.0.weight" in line
    assert "1 of another shape in" in line
    assert "make them, and stay as initialised (head.bias)" in line
    assert "1 of its entries have no place (old_head.bias)" in line


def test_a_training_from_whole_weights_says_nothing(run, whole, weights_lines):
    assert weights_lines(run(whole)) == []


def test_a_run_that_resumes_is_not_checked(run, whole):
    del whole["head.bias"]
    runner = run(whole, resume=True)
    runner.test_loop  # noqa: B018  # built, as a test would
    runner.load_checkpoint(runner._load_from)


# Deployment ----------------------------------------------------------------------------------------------------------


def run_test(*hooks):
    """Runs the DeployHook in front of a test of a detector around a tiny XCiT; returns the backbone."""
    detector = nn.Module()
    detector.backbone = tiny_xcit()
    HOOKS.build({"type": "DeployHook"}).before_test(SimpleNamespace(model=detector, hooks=hooks))
    return detector.backbone


def test_a_backbone_is_deployed_for_a_test():
    backbone, x = run_test(), random_images(1, 3, 32, 40)
    assert backbone.deployed
    with torch.no_grad():
        for got, expected in zip(backbone(x), tiny_xcit().eval()(x)):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_backbone_whose_averages_are_tested_is_not_deployed():
    assert not run_test(HOOKS.build({"type": "EMAHook"})).deployed


def test_a_model_without_xcit_is_tested_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    HOOKS.build({"type": "DeployHook"}).before_test(SimpleNamespace(model=model, hooks=[]))
    assert len(list(model.parameters())) == 4
