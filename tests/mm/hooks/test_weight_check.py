"""CheckWeightsHook: a test needs weights for the complete model; a training reports what starts from scratch."""

import logging

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

import xcit_dense.mm  # noqa: F401
from tests.helpers.models import raises_user_error, tiny_xcit


class Model(BaseModel):
    """A backbone with a neck and a head that learns to predict zero."""

    def __init__(self, backbone, classes=3):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Sequential(nn.Conv2d(16, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, classes)

    def forward(self, inputs, mode="tensor"):
        x = self.head(self.neck(self.backbone(torch.stack(list(inputs)))[0]).mean((2, 3)))
        return {"loss": x.square().mean()} if mode == "loss" else [x]


HUB = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}


class NoMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"seen": len(results)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a run of a small model whose weights come from a file of these entries."""

    def make(weights, model=None, **options):
        torch.save({"state_dict": weights, "meta": {"epoch": 0, "iter": 0}, "message_hub": HUB}, tmp_path / "a.pth")
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
def complete_weights():
    """All weights of a small model."""
    return dict(Model(tiny_xcit(norm_cfg="BN")).state_dict())


FAULTS = {
    "missing": (
        lambda weights: {k: v for k, v in weights.items() if "head" not in k},
        ["2 missing (head.weight, head.bias)"],
    ),
    "of a trunk": (
        lambda weights: {k: v for k, v in weights.items() if not k.startswith("backbone.fpn")},
        ["missing (backbone.fpn1.0.weight"],
    ),
    "unknown": (lambda weights: {**weights, "decode_head.weight": torch.ones(2)}, ["1 unknown (decode_head.weight)"]),
    "reshaped": (lambda weights: {**weights, "head.bias": torch.ones(5)}, ["1 of another shape (head.bias)"]),
    "of another head": (
        lambda weights: {k.replace("neck", "fpn"): v for k, v in weights.items() if not k.startswith("neck.1.run")},
        ["6 missing (neck.0.weight, neck.0.bias, neck.1.weight, ...)", "4 unknown (fpn.0.weight"],
    ),
}


@pytest.mark.parametrize("start", ["", "module."])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_test_refuses_weights_that_do_not_fill_the_model(run, complete_weights, tmp_path, fault, start):
    change, words = FAULTS[fault]
    runner = run({start + name: value for name, value in change(complete_weights).items()})
    with raises_user_error(tmp_path / "a.pth", "Give a checkpoint of this config's model", *words):
        runner.test()


@pytest.mark.parametrize("start", ["", "module."])
@pytest.mark.parametrize("dialect", ["own", "timm's names", "class attention", "no counters"])
def test_a_test_takes_weights_that_fill_the_model_in_any_dialect(run, complete_weights, dialect, start):
    if dialect == "timm's names":
        complete_weights = {name.replace("pos_embeder", "pos_embed"): value for name, value in complete_weights.items()}
    elif dialect == "class attention":
        complete_weights["backbone.cls_token"] = torch.ones(1, 1, 16)
    elif dialect == "no counters":
        complete_weights = {
            name: value for name, value in complete_weights.items() if not name.endswith("num_batches_tracked")
        }
    runner = run({start + name: value for name, value in complete_weights.items()})
    assert runner.test() == {"seen": 1}
    assert torch.equal(runner.model.head.weight, complete_weights["head.weight"])


def test_a_test_refuses_a_backbone_of_another_shape_by_its_file(run, tmp_path):
    with raises_user_error(tmp_path / "a.pth", "depth=5", "depth=4"):
        run(Model(tiny_xcit(norm_cfg="BN", depth=5, out_indices=None)).state_dict()).test()


@pytest.fixture
def weights_lines(mm_log, caplog):
    """The lines that a training logs about its weights."""

    def read(runner):
        with caplog.at_level(logging.INFO, logger=runner.logger.name):
            runner.logger.addHandler(caplog.handler)
            runner.train()
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Weights: ")]

    return read


def test_a_training_logs_one_line_about_weights_that_stay_as_initialised(
    run, complete_weights, weights_lines, tmp_path
):
    weights = {
        name: value for name, value in complete_weights.items() if not name.startswith(("neck.0", "backbone.fpn"))
    }
    pyramid = sum(name.startswith("backbone.fpn") for name in complete_weights)
    weights |= {"head.bias": torch.ones(5), "old_head.bias": torch.ones(5)}
    (line,) = weights_lines(run(weights))
    assert f"{pyramid + 2} not in {tmp_path / 'a.pth'} and stay as initialised (neck.0.weight" in line
    assert "1 of another shape in" in line
    assert "make them, and stay as initialised (head.bias)" in line
    assert "1 of its entries have no place (old_head.bias)" in line


def test_a_training_from_complete_weights_does_not_log_a_line(run, complete_weights, weights_lines):
    assert weights_lines(run(complete_weights)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_resume_refuses_weights_that_do_not_fill_the_model(run, complete_weights, tmp_path, fault):
    change, words = FAULTS[fault]
    runner = run(change(complete_weights), resume=True)
    with raises_user_error(tmp_path / "a.pth", "Give a checkpoint of this config's model", *words):
        runner.train()


def test_a_resume_takes_weights_that_fill_the_model(run, complete_weights, weights_lines):
    assert weights_lines(run(complete_weights, resume=True)) == []
