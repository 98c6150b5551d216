"""The console of a run: few lines on the console, everything in the log file."""

import json
import re
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine", reason="MMEngine is not installed")
pytest.importorskip("mmcv", reason="mmcv is not installed")

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch.utils.data import Dataset

from xcit_dense.mm.runtime.launch import make_runner
from xcit_dense.mm.runtime.report import format_metrics


@MODELS.register_module()
class ChattyModel(BaseModel):
    """Warns in its first step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs, mode="tensor"):
        x = self.layer(torch.stack(inputs))
        if mode != "loss":
            return [x]
        warnings.warn("the images are upside down", UserWarning, stacklevel=1)
        warnings.warn("faster_coco_eval is not installed, metrics will not be computed", UserWarning, stacklevel=1)
        warnings.warn("use another function", DeprecationWarning, stacklevel=1)
        print("printed by the model")
        return {"loss": x.square().mean()}


@METRICS.register_module()
class ChattyMetric(BaseMetric):
    """Prints while it computes."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        print("a long table")
        return {"bbox_mAP": 0.25, "bbox_mAP_s": -1.0}


@DATASETS.register_module()
class ChattyDataset(Dataset):
    """Prints while it is built."""

    metainfo = {"classes": ("circle", "square")}  # noqa: RUF012

    def __init__(self):
        print("loading annotations into memory...")

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"inputs": torch.ones(4)}


@pytest.fixture
def config(tmp_path):
    """A training of 20 steps with a validation at step 20, which is also the config of a test."""
    loader = {
        "dataset": {"type": "ChattyDataset"},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "pseudo_collate"},
        "batch_size": 1,
        "num_workers": 0,
    }
    return Config(
        {
            "model": {"type": "ChattyModel"},
            "work_dir": str(tmp_path / "work"),
            "train_dataloader": {**loader, "sampler": {"type": "InfiniteSampler"}},
            "train_cfg": {"by_epoch": False, "max_iters": 20, "val_interval": 20},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}},
            "val_dataloader": loader,
            "val_cfg": {},
            "val_evaluator": {"type": "ChattyMetric"},
            "test_dataloader": loader,
            "test_cfg": {},
            "test_evaluator": {"type": "ChattyMetric"},
            "default_hooks": {"checkpoint": {"type": "AtomicCheckpointHook", "by_epoch": False, "interval": 20}},
            "log_processor": {"by_epoch": False},
            "experiment_name": tmp_path.name,
        }
    )


@pytest.fixture(autouse=True)
def shown_warnings(monkeypatch):
    """Shows each warning as in a fresh process, and restores the functions that a quiet run replaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        yield


def read_log(config):
    (path,) = Path(config.work_dir).glob("*/*.log")
    return path.read_text()


def test_a_training_prints_model_data_device_schedule_losses_metrics_and_files(config, capsys):
    make_runner(config).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line != "printed by the model"]
    text = "\n".join(lines)
    assert len(lines) < 25
    assert re.search(r"^Training ChattyModel, 0.0 M parameters, random weights$", text, re.M)
    assert re.search(r"^Data: +5 training and 5 validation images, 2 classes \(circle, square\)$", text, re.M)
    assert re.search(r"^Device: +\S", text, re.M)
    assert re.search(r"^Schedule: 20 iterations of 1 image \(4.0 epochs\), SGD with learning rate 0.1", text, re.M)
    assert len(re.findall(r"^iteration +\d+/20  loss \S+  \S+ (?:it/s|s/it)  0:\d\d:\d\d left$", text, re.M)) == 10
    assert re.search(r"^Validation at iteration 20, 5 images in 0:00:0\d:\n +AP +small\nboxes +0.250 +-$", text, re.M)
    for path in ("work/iter_20.pth", ".log"):
        assert any(line.endswith(path) for line in lines[-3:])


def test_a_test_prints_model_data_device_log_and_metrics(config, capsys):
    make_runner(config).test()
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 12
    assert re.search(r"^Testing ChattyModel", text, re.M)
    assert re.search(r"^Data: +5 images, 2 classes", text, re.M)
    assert re.search(r"^boxes +0.250 +-$", text, re.M)


def test_the_log_file_contains_what_the_console_does_not_show(config, capsys):
    make_runner(config).train()
    shown, log = capsys.readouterr().out, read_log(config)
    for text in (
        "System environment",
        "Config:",
        "Iter(train)",
        "Iter(val)",
        "loading annotations into memory",
        "a long table",
        "faster_coco_eval",
        "use another function",
    ):
        assert text in log
        assert text not in shown
    assert [line for line in shown.splitlines() if line.startswith("iteration") and line not in log] == []


def test_warnings_for_the_user_and_lines_of_the_users_model_are_shown(config, capsys):
    make_runner(config).train()
    shown = capsys.readouterr().out
    assert "warning: the images are upside down\n" in shown
    assert "printed by the model\n" in shown
    assert "the images are upside down" in read_log(config)


def test_errors_of_a_run_are_shown(config, capsys):
    runner = make_runner(config)
    runner.logger.error("the disk is full")
    assert "error: the disk is full\n" in capsys.readouterr().out


def test_each_run_of_a_process_logs_into_its_own_directory(config, tmp_path):
    config.visualizer = {"type": "Visualizer", "name": "visualizer", "vis_backends": [{"type": "LocalVisBackend"}]}
    for name in ("one", "two"):
        config.work_dir, config.experiment_name = str(tmp_path / name), f"{tmp_path.name}_{name}"
        make_runner(deepcopy(config)).train()
    for name in ("one", "two"):
        (path,) = (tmp_path / name).glob("*/vis_data/scalars.json")
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert max(steps) == 20


def test_a_verbose_run_shows_everything(config, capsys):
    make_runner(config, verbose=True).train()
    shown = "".join(capsys.readouterr())
    for text in ("System environment", "Config:", "Iter(train)", "a long table", "Training Chatty"):
        assert text in shown


def test_other_ranks_show_errors_only(config, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    runner = make_runner(config)
    runner.train()
    runner.logger.error("the disk is full")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line != "printed by the model"] == ["error: the disk is full"]


def test_an_import_leaves_foreign_loggers_and_warnings_as_they_are(python):
    code = (
        "import logging, warnings; from mmengine.logging import MMLogger;"
        "logger = MMLogger.get_instance('user'); before = list(logger.handlers), warnings.showwarning;"
        "import xcit_dense.mm, xcit_dense.mm.runtime.launch;"
        "print((list(logger.handlers), warnings.showwarning) == before, logger.filters, logging.getLogger().filters)"
    )
    process = python("-c", code)
    assert process.stdout == "True [] []\n"
    assert "xcit_dense" not in process.stderr


def test_metrics_of_other_names_are_one_row():
    table = format_metrics({"mIoU": 5.0, "a_metric_with_a_long_name": float("nan"), "time": 3.0})
    assert [line.split() for line in table.splitlines()] == [["mIoU", "a_metric_with_a_long_name"], ["5.000", "-"]]


def test_missing_metrics_are_reported():
    assert format_metrics({}) == "no metrics"


@pytest.fixture(autouse=True)
def fresh_logger():
    """Closes the loggers of a run after the test."""
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            handler.close()
    MMLogger._instance_dict.clear()
