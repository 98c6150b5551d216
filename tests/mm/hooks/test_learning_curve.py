"""The learning curve of a run, from the logs that MMEngine writes."""

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
    """Writes one part of a run and returns the work directory."""

    def write(timestamp, *records):
        path = tmp_path / timestamp / "vis_data" / "scalars.json"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return tmp_path

    return write


def test_training_records_and_metrics_are_separate_curves(log):
    curves = read_curves(log("1", train(10, 2.0, loss_cls=1.5), train(20, 1.0), val(20, bbox_mAP=0.25)))
    assert curves.train["loss"] == [(10, 2.0), (20, 1.0)]
    assert curves.train["loss_cls"] == [(10, 1.5)]
    assert curves.train["lr"] == [(10, 1e-4), (20, 1e-4)]
    assert curves.val == {"coco/bbox_mAP": [(20, 0.25)]}


@pytest.mark.parametrize("steps", [(1, 2), (0, 0), (20, 40)], ids=["epochs", "no steps", "iterations"])
def test_a_metric_of_an_old_log_belongs_to_the_last_logged_iteration(log, steps):
    records = [train(20, 2.0), val(steps[0], bbox_mAP=0.1), train(40, 1.0), val(steps[1], bbox_mAP=0.2)]
    assert read_curves(log("1", *records)).val["coco/bbox_mAP"] == [(20, 0.1), (40, 0.2)]


def test_a_resumed_run_replaces_the_iterations_that_it_repeats(log):
    log("20260101_000000", *[train(step, 9.0) for step in (10, 20, 30)], val(1, bbox_mAP=0.9))
    curves = read_curves(log("20260101_010000", *[train(step, 1.0) for step in (20, 30, 40)], val(1, bbox_mAP=0.1)))
    assert curves.train["loss"] == [(10, 9.0), (20, 1.0), (30, 1.0), (40, 1.0)]
    assert curves.val["coco/bbox_mAP"] == [(30, 0.9), (40, 0.1)]


def test_a_resumed_run_that_validates_first_keeps_the_metrics_before_it(log):
    log("20260101_000000", train(10, 9.0), val(1, bbox_mAP=0.1), train(20, 9.0), val(2, bbox_mAP=0.2))
    curves = read_curves(log("20260101_010000", val(2, bbox_mAP=0.3), train(30, 1.0)))
    assert curves.val["coco/bbox_mAP"] == [(10, 0.1), (20, 0.3)]


def test_an_incomplete_line_is_skipped(log):
    (work_dir,) = {log("20260101_000000", train(10, 9.0)), log("20260101_010000", train(20, 1.0))}
    with (work_dir / "20260101_000000/vis_data/scalars.json").open("a") as file:
        file.write('{"lr": 1e-4, "loss": 8.')
    assert read_curves(work_dir).train["loss"] == [(10, 9.0), (20, 1.0)]


def test_text_and_times_do_not_become_curves(log):
    curves = read_curves(log("1", train(10, 2.0, epoch=1, memory_unit="MB")))
    assert curves.train.keys() == {"base_lr", "lr", "loss"}


def test_a_run_without_logs_does_not_have_curves(tmp_path):
    curves = read_curves(tmp_path)
    assert curves.train == curves.val == {}


def check_image(path, work_dir):
    assert path == work_dir / "learning_curve.png"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, "blank"
    assert [file.name for file in work_dir.iterdir() if file.is_file()] == ["learning_curve.png"]
    return pixels


def test_the_image_shows_loss_rate_and_metrics(log):
    records = [train(10, 2.0), train(20, 1.0), val(1, bbox_mAP=0.1, segm_mAP_50=0.2), train(30, 0.5)]
    work_dir = log("1", *records)
    pixels = check_image(draw_learning_curve(work_dir), work_dir)
    without_metrics = log("2", train(0, 1.0))
    (work_dir / "1" / "vis_data" / "scalars.json").unlink()
    assert len(pixels) > len(check_image(draw_learning_curve(without_metrics), work_dir))


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
def test_every_log_makes_an_image(log, records):
    work_dir = log("1", *records)
    check_image(draw_learning_curve(work_dir), work_dir)


def test_an_empty_log_does_not_make_an_image(log):
    assert draw_learning_curve(log("1")) is None
    assert draw_learning_curve(log("2", val(0, bbox_mAP=0.5))) is None
    assert not list(log("3").glob("*.png"))


def test_the_hook_draws_after_validation_and_logs_the_path_after_training(log, caplog):
    hook = HOOKS.build({"type": "LearningCurveHook"})
    work_dir = log("1", train(10, 2.0))
    runner = SimpleNamespace(work_dir=str(work_dir), logger=logging.getLogger("test_learning_curve"))
    path = work_dir / "learning_curve.png"
    hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.5})
    check_image(path, work_dir)
    with caplog.at_level(logging.INFO):
        hook.after_train(runner)
    assert str(path) in caplog.text


def test_a_training_continues_if_the_image_cannot_be_written(log, caplog):
    hook = HOOKS.build({"type": "LearningCurveHook"})
    work_dir = log("1", train(10, 2.0))
    path = work_dir / "learning_curve.png"
    path.mkdir()
    runner = SimpleNamespace(work_dir=str(work_dir), logger=logging.getLogger("test_learning_curve"))
    hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.5})
    hook.after_train(runner)
    own = [record.levelname for record in caplog.records if record.name == "test_learning_curve"]
    assert own == ["WARNING"] * 2  # matplotlib logs too
    assert f"{path} cannot be written" in caplog.text
    assert not [part for part in work_dir.rglob("*") if "part" in part.name]


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, mode="tensor"):
        x = self.layer(torch.stack(inputs))
        return {"loss": x.square().mean()} if mode == "loss" else [x]


class OneMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"mIoU": 50.0}


@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_validation_belongs_to_its_own_iteration(tmp_path, by_epoch):
    """The log interval is 4 and the validation interval 3. Training records thus skip the iterations 3 and 6."""
    loader = {
        "dataset": [{"inputs": torch.ones(4)}] * 3,
        "sampler": {"type": "DefaultSampler" if by_epoch else "InfiniteSampler", "shuffle": False},
        "collate_fn": {"type": "pseudo_collate"},
        "batch_size": 1,
        "num_workers": 0,
    }
    length = {"max_epochs": 2, "val_interval": 1} if by_epoch else {"max_iters": 6, "val_interval": 3}
    Runner(
        model=Model(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg={"by_epoch": by_epoch, **length},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        val_dataloader={**loader, "sampler": {"type": "DefaultSampler", "shuffle": False}},
        val_cfg={},
        val_evaluator=[OneMetric()],
        default_hooks={"checkpoint": None, "logger": {"type": "LoggerHook", "interval": 2 if by_epoch else 4}},
        custom_hooks=[{"type": "LearningCurveHook"}],
        log_processor={"by_epoch": by_epoch},
        experiment_name=f"{tmp_path.name}_{by_epoch}",
    ).train()
    assert read_curves(tmp_path).val == {"mIoU": [(3, 50.0), (6, 50.0)]}
